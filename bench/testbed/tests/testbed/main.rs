//! The testbed's promises, each tried with real namespaces.
//!
//! `main` enters the sandbox before any test runs. Where namespaces are forbidden the tests are reported as
//! ignored, with the reason and the way round.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod app;
mod bed;
mod network;
mod workloads;

use libtest_mimic::{Arguments, Trial};
use weir_testbed::Sandbox;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(code) = app::run(&args) {
        std::process::exit(code);
    }
    let arguments = Arguments::from_args();
    let sandbox = match Sandbox::enter() {
        Ok(sandbox) => Some(sandbox),
        Err(error) if error.is_forbidden() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let mut trials = Vec::new();
    trials.extend(network::trials(sandbox));
    trials.extend(workloads::trials(sandbox));
    // One testbed at a time: they share the sandbox's bridge.
    let arguments = Arguments {
        test_threads: Some(1),
        ..arguments
    };
    libtest_mimic::run(&arguments, trials).exit();
}

/// A trial that runs `test` on a runtime of its own.
fn trial<F>(name: &str, sandbox: Option<Sandbox>, test: impl Fn(Sandbox) -> F + Send + 'static) -> Trial
where
    F: Future<Output = ()>,
{
    let ignored = sandbox.is_none();
    Trial::test(name, move || {
        let sandbox = sandbox.ok_or("no sandbox")?;
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(test(sandbox));
        Ok(())
    })
    .with_ignored_flag(ignored)
}
