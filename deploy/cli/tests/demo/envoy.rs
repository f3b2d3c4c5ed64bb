//! `weir demo --proxy envoy`: a stock Envoy under the controller.

use anyhow::ensure;

use crate::{Outcome, json, programs::WEIR, run};

/// Whether there is an Envoy, and a sandbox for it.
pub(crate) fn possible() -> Result<(), String> {
    run::possible()?;
    weir::local::envoy::locate(None)
        .map(drop)
        .map_err(|error| format!("{error:#}"))
}

fn hold(flags: &[&str]) -> Outcome {
    let phases: Vec<_> = json::PHASES.into_iter().chain(["accepted"]).collect();
    json::hold(flags, &phases)
}

pub(crate) fn everywhere() -> Outcome {
    hold(&["--proxy", "envoy"])
}

pub(crate) fn mixed() -> Outcome {
    hold(&["--proxy", "mixed", "--xds", "sotw"])
}

pub(crate) fn wrong() -> Outcome {
    let mut command = run::weir(WEIR);
    command.args([
        "demo",
        "--check",
        "--proxy",
        "envoy",
        "--envoy-path",
        "/bin/false",
    ]);
    let ran = run::to_end(command)?;
    ensure!(
        ran.status.code() == Some(1)
            && ran.stderr.contains("/bin/false is no Envoy")
            && ran.stdout.is_empty(),
        "{}\n{}\n{}",
        ran.status,
        ran.stdout,
        ran.stderr
    );
    Ok(())
}
