//! A Kubernetes of one node, for people: `weir-cluster up` runs it with a shell inside.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use tokio::process;
use weir_cluster::Node;
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
    /// Runs a whole node, as root, and a command inside that can reach it; the node ends with the command.
    Up {
        /// The directory of kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kube-proxy.
        #[arg(long)]
        programs: PathBuf,
        /// The command, with KUBECONFIG set [default: $SHELL].
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    // A stage of the sandbox has a command line of its own, which is not ours to parse.
    if !Sandbox::entered() {
        let _checked = Args::parse();
    }
    let outcome = Sandbox::enter_as_root()
        .map_err(anyhow::Error::from)
        .and_then(inside);
    outcome.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

fn inside(sandbox: Sandbox) -> anyhow::Result<ExitCode> {
    let Command::Up { programs, command } = Args::parse().command;
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
