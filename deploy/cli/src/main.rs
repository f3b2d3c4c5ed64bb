//! `weir`: the command line of the Weir service mesh.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weir::demo;
use weir_testbed::Sandbox;

/// A small, fast service mesh for Kubernetes.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the whole mesh and the bookstore on this machine, each pod a network namespace. Needs no root.
    Demo(demo::Args),
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("weir: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    // A stage of the sandbox has a command line of its own, which is not ours to parse.
    if !Sandbox::entered() {
        match Args::parse().command {
            Command::Demo(_) => demo::prepare()?,
        }
    }
    let sandbox = Sandbox::enter()?;
    match Args::parse().command {
        Command::Demo(args) => demo::run(sandbox, &args),
    }
}
