//! A Kubernetes of one node, for people: `weir-cluster build` makes its programs, `weir-cluster up` runs it with a shell
//! inside.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use tokio::process;
use weir_cluster::{Node, programs};
use weir_testbed::Sandbox;

/// A real Kubernetes in namespaces of its own, which leaves nothing behind.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the programs of Kubernetes that are missing, with Go, into the user's cache.
    Build,
    /// Runs a whole node, as root, and a command inside that can reach it; the node ends with the command.
    Up {
        /// The directory of kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kube-proxy
        /// [default: where `build` puts them].
        #[arg(long)]
        programs: Option<PathBuf>,
        /// The command, with KUBECONFIG set [default: $SHELL].
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    // A stage of the sandbox has a command line of its own, which is not ours to parse.
    if !Sandbox::entered()
        && let Command::Build = Args::parse().command
    {
        return build();
    }
    let outcome = Sandbox::enter_as_root()
        .map_err(anyhow::Error::from)
        .and_then(inside);
    outcome.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

fn build() -> ExitCode {
    for programs in [programs::NODE, programs::CLIENTS] {
        match programs::build(programs) {
            Ok(directory) => println!("{} in {}", programs.join(", "), directory.display()),
            Err(error) => {
                eprintln!("{error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn inside(sandbox: Sandbox) -> anyhow::Result<ExitCode> {
    let Command::Up { programs, command } = Args::parse().command else {
        return Ok(build());
    };
    let programs = match programs {
        Some(programs) => programs,
        None => programs::find(programs::NODE).map_err(anyhow::Error::msg)?,
    };
    let shell = || std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let mut words = command.into_iter();
    let mut command = process::Command::new(words.next().unwrap_or_else(shell));
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let begun = Instant::now();
        let node = Node::start(&sandbox, &programs, &[]).await?;
        eprintln!(
            "ready after {:.1?}; KUBECONFIG is set, logs are in {}",
            begun.elapsed(),
            node.logs().display()
        );
        let status = command
            .args(words)
            .env("KUBECONFIG", node.kubeconfig())
            .status()
            .await;
        node.stop();
        let code = status?.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    })
}
