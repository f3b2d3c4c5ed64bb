//! `weir check`: looks for what is wrong in a cluster and its mesh, and says what to do.
//!
//! What is asked of the cluster is in `cluster` and `before`; everything else judges what came back, and is pure.

mod before;
mod clock;
mod cluster;
mod control_plane;
mod mesh;
mod policies;
mod report;
mod services;
#[cfg(test)]
mod tests;
mod workloads;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use kube::Client;
use weir_controller::{catalog, endpoints};

use crate::api;
use report::{Report, Section};

/// How a command prints what it found.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Flags of `weir check`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Tell whether the mesh can be installed, instead of how an installed one fares.
    #[arg(long, conflicts_with = "namespaces")]
    pre: bool,
    /// Look at the objects of this namespace only; may be given several times.
    #[arg(short, long = "namespace", value_name = "NAME")]
    namespaces: Vec<String>,
    /// How to print it.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// Checks the cluster. Ends with status 1 where there is an error; warnings do not count.
///
/// # Errors
/// When there is no usable kubeconfig, or the output cannot be written.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let client = api::connect(cluster).await?;
    let mut report = Report::default();
    let version = cluster::version(&client).await;
    let reached = version.is_ok();
    report.add(cluster::kubernetes(&client, version).await);
    if reached {
        match args.pre {
            true => report.add(before::permissions(&client, cluster).await),
            false => mesh(&client, cluster, &args.namespaces, &mut report).await,
        }
    }
    let mut out = io::stdout();
    match args.output {
        Output::Text => write!(out, "{report}")?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report.json())?)?,
    }
    Ok(match report.errors() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Checks an installed mesh.
async fn mesh(client: &Client, cluster: &api::Options, namespaces: &[String], report: &mut Report) {
    let (section, running) = cluster::control_plane(client, &cluster.namespace).await;
    report.add(section);
    let Some(running) = running else {
        return;
    };
    let objects = match endpoints::list(client).await {
        Ok(objects) => objects,
        Err(error) => {
            let mut section = Section::new("objects of the mesh");
            section.error("API server", &error, "see that you may read them");
            report.add(section);
            return;
        }
    };
    let settings = running.settings;
    let snapshot = catalog::build(None, &objects, &settings);
    let view = mesh::View {
        objects: &objects,
        settings: &settings,
        snapshot: &snapshot,
        namespaces,
    };
    report.add(workloads::check(&view, running.proxy_image.as_deref()));
    report.add(services::check(&view));
    report.add(policies::check(&view));
}

/// What the catalog of the controller in `namespace` was told.
///
/// # Errors
/// When there is none, or the API server does not say.
pub(crate) async fn settings(client: &Client, namespace: &str) -> anyhow::Result<catalog::Settings> {
    cluster::settings(client, namespace).await
}
