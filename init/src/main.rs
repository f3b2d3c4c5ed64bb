//! `weir-init`: redirects the TCP traffic of the pod it runs in through the sidecar, proves it, and exits.

mod args;
mod run;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    args::Args::parse().run()
}
