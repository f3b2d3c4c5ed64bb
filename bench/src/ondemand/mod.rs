//! What a sidecar pays for the size of the mesh: its memory with the same services in use in a small mesh and in a
//! large one, and what the first connection to a service takes over the next.
//!
//! The controller and the sidecar are the real programs, in a network namespace of their own whose service addresses
//! are redirected to the sidecar. Servers are played by this process, under mutual TLS.

mod backend;
mod bootstrap;
mod identity;
mod network;
mod phases;
mod report;
mod sidecar;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;
use weir_testbed::Sandbox;

pub(crate) use self::{report::Memory, sidecar::Make};

use crate::{
    missed,
    pin::{self, Cores},
    scale::layout::Layout,
};

/// What is asked for on the command line.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// The weir-proxy binary, a release build; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
    /// The weir-controller binary; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    controller: Option<PathBuf>,
    /// The Envoy binary; by default the one on PATH, and none when there is none. "none": none.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Services of the large mesh.
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Services in use, all that the small mesh has.
    #[arg(long, default_value_t = 10)]
    uses: usize,
    /// Endpoints of each service.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Services that are connected to for the first time, and once more, to compare.
    #[arg(long, default_value_t = 500)]
    firsts: usize,
    /// The most memory, in MiB, that the large mesh may cost a sidecar over the small one.
    #[arg(long, default_value_t = 1.0)]
    max_growth: f64,
    /// The most, in milliseconds, that a first connection may take over the next one, for 99 of 100.
    #[arg(long, default_value_t = 5.0)]
    max_added: f64,
    /// Fails when a target is missed.
    #[arg(long)]
    check: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the scenario.
///
/// # Errors
/// When it cannot be run to its end, or with `--check` a target is missed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(
        options.uses > 0 && options.endpoints > 0 && options.uses <= options.services,
        "--uses must be from 1 to --services, and --endpoints positive"
    );
    let sandbox = Sandbox::enter().context("the scenario needs a network of its own")?;
    let cores = Cores::choose();
    pin::this_thread(cores.load);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let figures = runtime.block_on(phases::run(options, sandbox, cores))?;
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&figures)?),
        false => println!("{}", figures.table(options)),
    }
    missed::tell(&figures.missed(options), options.check)
}

/// Services that the sidecar uses.
const IN_USE: usize = 10;

/// The memory of each make of sidecar in a mesh of so many services, ten of them in use. The calling thread's network
/// has to be one of its own, as [`network`] leaves it.
///
/// # Errors
/// When the mesh does not start; a sidecar that does not is an error of its own.
pub(crate) fn size(
    services: usize,
    controller: Option<&Path>,
    makes: &[Make],
    sandbox: Sandbox,
    cores: Cores,
) -> anyhow::Result<Vec<anyhow::Result<Memory>>> {
    let options = Options {
        controller: controller.map(Path::to_owned),
        services,
        uses: IN_USE,
        endpoints: 10,
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(phases::size(&options, makes, sandbox, cores))
}

/// Makes the calling thread's network one for [`size`].
///
/// # Errors
/// When a program is missing or the kernel refuses.
pub(crate) fn set_up_network() -> anyhow::Result<()> {
    network::set_up()
}

impl Options {
    /// A mesh of so many services; half as many apps, each with its pods.
    fn mesh(&self, services: usize) -> Layout {
        Layout {
            name: "demand",
            before: (0, 0),
            pods: services.div_ceil(2) * self.endpoints,
            services,
            endpoints: self.endpoints,
            uses: self.uses,
        }
    }
}
