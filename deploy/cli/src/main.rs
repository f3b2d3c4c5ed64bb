//! `weir`: the command line of the Weir service mesh.

use std::{io, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use weir::{
    api, check, completion, demo, inject, install, metrics, namespace, policy, proxy, uninstall, upgrade,
    version,
};
use weir_testbed::Sandbox;

/// A small, fast service mesh for Kubernetes.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Args {
    #[command(flatten)]
    cluster: api::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs the mesh in a cluster.
    Install(install::Args),
    /// Brings an installed mesh to the version of this program.
    Upgrade(upgrade::Args),
    /// Removes the mesh from a cluster.
    Uninstall(uninstall::Args),
    /// Looks for what is wrong in a cluster and its mesh, and says what to do.
    Check(check::Args),
    /// Adds namespaces to the mesh, removes them, lists them.
    Namespace(namespace::Args),
    /// Adds the sidecar to manifests, without a cluster.
    Inject(inject::Args),
    /// Lets Prometheus scrape the pods of namespaces, or not.
    Metrics(metrics::Args),
    /// Shows what a pod's sidecar knows.
    Proxy(proxy::Args),
    /// Asks the mesh's policy.
    Policy(policy::Args),
    /// Runs the whole mesh and the bookstore on this machine, each pod a network namespace. Needs no root.
    Demo(demo::Args),
    /// Shows the version of this program and of the mesh.
    Version(version::Args),
    /// Writes a completion script for a shell.
    Completion(completion::Args),
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        if closed_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("weir: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    // A stage of the sandbox has a command line of its own, which is not ours to parse; only the demo has stages.
    if Sandbox::entered() {
        return run_demo();
    }
    let Args { cluster, command } = Args::parse();
    if let Command::Demo(args) = &command {
        demo::prepare(args)?;
        return run_demo();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(dispatch(&cluster, command));
    runtime.shutdown_background();
    outcome
}

fn run_demo() -> anyhow::Result<ExitCode> {
    let sandbox = Sandbox::enter()?;
    match Args::parse().command {
        Command::Demo(args) => demo::run(sandbox, &args),
        _ => anyhow::bail!("the sandbox is for `weir demo` alone"),
    }
}

async fn dispatch(cluster: &api::Options, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Install(args) => install::run(cluster, &args).await,
        Command::Upgrade(args) => upgrade::run(cluster, &args).await,
        Command::Uninstall(args) => uninstall::run(cluster, &args).await,
        Command::Check(args) => check::run(cluster, &args).await,
        Command::Namespace(args) => namespace::run(cluster, &args).await,
        Command::Inject(args) => inject::run(cluster, &args).await,
        Command::Metrics(args) => metrics::run(cluster, &args).await,
        Command::Proxy(args) => proxy::run(cluster, &args).await,
        Command::Policy(args) => policy::run(cluster, &args).await,
        Command::Version(args) => version::run(cluster, &args).await,
        Command::Completion(args) => completion::run(&args, &mut Args::command()),
        Command::Demo(_) => anyhow::bail!("`weir demo` runs before anything else"),
    }
}

/// Whether the reader of the output went away, as `head` does: that is its right, and no failure.
fn closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_namespace_of_a_subcommand_is_not_the_control_planes() {
        let args = ["weir", "inject", "--from-cluster", "--namespace", "shop"];
        assert_eq!(Args::parse_from(args).cluster.namespace, "weir-system");
        let args = ["weir", "check", "--weir-namespace", "other"];
        assert_eq!(Args::parse_from(args).cluster.namespace, "other");
    }
}
