//! `weir proxy`: what a pod's sidecar knows, asked through the API server at the sidecar's admin address, and what it
//! starts from.

mod admin;
mod bootstrap;
mod show;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde_json::Value;

pub(crate) use bootstrap::Xds;

use crate::{api, check::Output, columns::columns, policy::named};

/// Flags of `weir proxy`.
#[derive(clap::Args, Clone, Debug)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Command {
    #[command(flatten)]
    Page(Page),
    /// The bootstrap that a workload's sidecar starts from, as the injector would write it: for weir-proxy or a stock Envoy.
    Bootstrap(bootstrap::Args),
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Page {
    /// The configuration it got from the control plane, and what of it was refused. As JSON: all of it.
    Config(Pod),
    /// The certificates it has, and when they end.
    Certs(Pod),
    /// The endpoints it sends to, by cluster.
    #[command(visible_alias = "clusters")]
    Endpoints(Pod),
}

#[derive(clap::Args, Clone, Debug)]
struct Pod {
    /// The pod: NAMESPACE/NAME, or NAME.
    #[arg(value_name = "POD")]
    name: String,
    /// The pod's namespace [default: that of the context].
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// How to print it.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// How a page is printed for people.
type Table = fn(&Value) -> Vec<Vec<String>>;

impl Page {
    fn parts(&self) -> (&Pod, &'static str, Table) {
        match self {
            Self::Config(pod) => (pod, "/config_dump", show::config),
            Self::Certs(pod) => (pod, "/certs", show::certs),
            Self::Endpoints(pod) => (pod, "/clusters?format=json", show::endpoints),
        }
    }
}

/// Shows what a sidecar knows.
///
/// # Errors
/// When the cluster does not answer, or the pod has no sidecar that does; when a manifest cannot be read.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let page = match &args.command {
        Command::Page(page) => page,
        Command::Bootstrap(args) => return bootstrap::run(cluster, args).await,
    };
    let (pod, path, table) = page.parts();
    let client = api::connect(cluster).await?;
    let namespace = pod.namespace.as_deref().unwrap_or(client.default_namespace());
    let name = named(&pod.name, namespace);
    let page = admin::ask(&client, &name, path).await?;
    let mut out = io::stdout();
    match pod.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&page)?)?,
        Output::Text => write!(out, "{}", columns(&table(&page)))?,
    }
    Ok(ExitCode::SUCCESS)
}
