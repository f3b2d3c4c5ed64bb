//! Weir's benchmark. Everything runs on this machine.
//!
//! - [`compare`]: a pair of sidecars beside no sidecars and beside pairs of other makes, in pods;
//! - [`instructions`]: what one request takes, under valgrind;
//! - [`ondemand`]: what a sidecar pays for the size of the mesh;
//! - [`scale`]: thousands of sidecars on one controller;
//! - [`generator`]: the load of the comparison by itself.

mod answers;
mod application;
mod bootstrap;
mod compare;
mod gathered;
mod generator;
mod instructions;
mod load;
mod missed;
mod ondemand;
mod page;
mod peers;
mod pin;
mod process;
mod program;
mod scale;
mod together;

use clap::{Parser, Subcommand};
use weir_testbed::Sandbox;

/// Measures Weir beside its peers.
#[derive(Parser)]
#[command(name = "weir-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Compare a direct connection, a pair of weir-proxy and, where they are found, pairs of Envoy and HAProxy.
    Compare(compare::Options),
    /// Count the instructions and system calls that a pair of weir-proxy takes for a request; needs valgrind.
    Instructions(instructions::Options),
    /// Measure what a sidecar pays for the size of the mesh, and for connecting to a service for the first time.
    Demand(ondemand::Options),
    /// Put thousands of simulated sidecars on one weir-controller, and change endpoints under them.
    Scale(scale::Options),
    /// Put the load of one scenario of the comparison on a server, to hold the load generator against another one.
    Load(generator::Load),
    /// Serve what that load asks for.
    Serve(generator::Serve),
}

fn main() -> anyhow::Result<()> {
    // A stage of the sandbox has a command line of its own, which is not ours to parse.
    if Sandbox::entered() {
        Sandbox::enter()?;
    }
    match Cli::parse().command {
        Subcommands::Compare(options) => compare::run(&options),
        Subcommands::Instructions(options) => instructions::run(&options),
        Subcommands::Demand(options) => ondemand::run(&options),
        Subcommands::Scale(options) => scale::run(&options),
        Subcommands::Load(options) => generator::load(&options),
        Subcommands::Serve(options) => generator::serve(&options),
    }
}
