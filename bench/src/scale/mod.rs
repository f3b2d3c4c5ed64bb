//! One controller and thousands of sidecars: what a change, a connection and a reconnect storm cost.
//!
//! The controller is the real program with a core of its own, and reads a directory of manifests. The sidecars are
//! simulated, in this process, on the other core: each is a delta stream over mTLS with a certificate of its own,
//! which subscribes as weir-proxy does, answers every response, and comes back after pauses like the proxy's.

mod board;
mod bound;
mod call;
mod cluster;
pub(crate) mod controller;
pub(crate) mod files;
mod holding;
mod identities;
pub(crate) mod layout;
mod manifests;
mod phases;
mod provider;
mod report;
mod sidecar;
mod wire;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::{layout::Layout, provider::Kind, report::Targets};
use crate::{
    missed,
    pin::{self, Cores},
};

/// What is asked for on the command line.
#[derive(Args)]
pub(crate) struct Options {
    /// The weir-controller binary, a release build; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    controller: Option<PathBuf>,
    /// Where the mesh's objects are.
    #[arg(long, value_enum, default_value_t = Kind::Files)]
    provider: Kind,
    /// Simulated sidecars, each of a pod of its own.
    #[arg(long, default_value_t = 5000, value_parser = positive)]
    sidecars: usize,
    /// Services.
    #[arg(long, default_value_t = 1000, value_parser = positive)]
    services: usize,
    /// Endpoints of each service.
    #[arg(long, default_value_t = 10, value_parser = positive)]
    endpoints: usize,
    /// Services that each sidecar uses.
    #[arg(long, default_value_t = 10, value_parser = positive)]
    uses: usize,
    /// Changes of endpoints, in a second.
    #[arg(long, default_value_t = 20, value_parser = positive)]
    changes: usize,
    /// Seconds of changes.
    #[arg(long, default_value_t = 60, value_parser = positive)]
    seconds: usize,
    /// How many times as many services there are at the end, nobody using the added ones; 1 leaves this out.
    #[arg(long, default_value_t = 10, value_parser = positive)]
    growth: usize,
    #[command(flatten)]
    targets: Targets,
    /// Fails when a target is missed.
    #[arg(long)]
    check: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// Keep what the controller writes in this file.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be 1 or more".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// Runs the scenario.
///
/// # Errors
/// When it cannot be run to its end, or with `--check` a target is missed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    allow_open_files(options.sidecars)?;
    let cores = Cores::choose();
    pin::this_thread(cores.load);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let figures = runtime.block_on(phases::run(options, cores))?;
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&figures)?),
        false => println!("{}", figures.table(options)),
    }
    missed::tell(&options.targets.missed(&figures), options.check)
}

impl Options {
    /// The part of the mesh that the sidecars are in.
    fn used(&self) -> Layout {
        Layout {
            name: "used",
            before: (0, 0),
            pods: self.sidecars,
            services: self.services,
            endpoints: self.endpoints,
            uses: self.uses,
        }
    }

    /// The part that is added and that nobody uses.
    fn unrelated(&self) -> Layout {
        Layout {
            name: "unrelated",
            before: (self.sidecars, self.services),
            services: self.services * (self.growth - 1),
            ..self.used()
        }
    }
}

/// Each sidecar is a socket, here and at the controller, which inherits the limit.
fn allow_open_files(sidecars: usize) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = sidecars as u64 + 1024;
    ensure!(
        needed <= hard,
        "{sidecars} sidecars need {needed} open files, the limit is {hard}: raise it (ulimit -Hn) or use fewer"
    );
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
    }
    Ok(())
}
