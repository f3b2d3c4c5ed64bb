//! `weir metrics`: whether Prometheus scrapes the sidecars of a namespace.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use weir_controller::spec::has_sidecar;

use crate::{
    api::{self, FIELD_MANAGER, explain, is_missing},
    namespace::{self, METRICS, MONITORED_BY},
};

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
/// Where a sidecar shows its metrics, and its application's.
const SIDECAR_PORT: &str = "15010";
const SIDECAR_PATH: &str = "/stats/prometheus";

/// Flags of `weir metrics`.
#[derive(clap::Args, Clone, Debug)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Has Prometheus scrape the pods of namespaces.
    Enable(Namespaces),
    /// Has Prometheus leave the pods of namespaces alone.
    Disable(Namespaces),
}

#[derive(clap::Args, Clone, Debug)]
struct Namespaces {
    /// The namespaces, separated by commas. May be given more than once.
    #[arg(
        long = "namespace",
        short,
        value_name = "NAMESPACE",
        value_delimiter = ',',
        required = true
    )]
    names: Vec<String>,
}

/// Turns scraping on or off, for pods that are there and pods to come.
///
/// # Errors
/// When a namespace is not there, is in no mesh, or the API server refuses.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let client = api::connect(cluster).await?;
    let (namespaces, enable) = match &args.action {
        Action::Enable(namespaces) => (namespaces, true),
        Action::Disable(namespaces) => (namespaces, false),
    };
    for name in &namespaces.names {
        switch(&client, name.trim(), enable).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn switch(client: &Client, name: &str, enable: bool) -> anyhow::Result<()> {
    let verb = if enable { "enable" } else { "disable" };
    let failed = || format!("cannot {verb} metrics in namespace [{name}]");
    let api: Api<Namespace> = Api::all(client.clone());
    let there = api.get(name).await.map_err(explain).with_context(failed)?;
    if !there.labels().contains_key(MONITORED_BY) {
        bail!(
            "{}: it belongs to no mesh; run `weir namespace add {name}` first",
            failed()
        );
    }
    let value = if enable { json!("enabled") } else { Value::Null };
    namespace::patch(&api, name, &json!({ "annotations": { METRICS: value } })).await?;
    let kept = switch_pods(client, name, enable).await.with_context(failed)?;
    let mut out = io::stdout();
    writeln!(out, "Metrics successfully {verb}d in namespace [{name}]")?;
    if kept > 0 {
        writeln!(
            out,
            "{kept} running pods keep their own prometheus.io annotations; restart them, and their sidecars show both"
        )?;
    }
    Ok(())
}

/// Annotates the running pods. Tells how many have annotations of their own, which stay.
async fn switch_pods(client: &Client, namespace: &str, enable: bool) -> anyhow::Result<usize> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let mut kept = 0;
    let pods = api.list(&ListParams::default()).await.map_err(explain)?;
    for pod in pods.iter().filter(|pod| has_sidecar(pod)) {
        match annotations(pod, enable) {
            Change::None => {}
            Change::Kept => kept += 1,
            Change::To(annotations) => {
                let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
                match api.patch_metadata(&pod.name_any(), &parameters, &patch).await {
                    Ok(_) => {}
                    Err(error) if is_missing(&error) => {}
                    Err(error) => return Err(explain(error)),
                }
            }
        }
    }
    Ok(kept)
}

#[derive(Debug, PartialEq)]
enum Change {
    /// It is so already.
    None,
    /// The application is scraped at a place of its own.
    Kept,
    /// These annotations.
    To(Value),
}

fn annotations(pod: &Pod, enable: bool) -> Change {
    let there = pod.annotations();
    let ours = there.get(PORT).is_some_and(|port| port == SIDECAR_PORT);
    match (enable, there.contains_key(SCRAPE), ours) {
        (true, false, _) => Change::To(json!({ SCRAPE: "true", PORT: SIDECAR_PORT, PATH: SIDECAR_PATH })),
        (true, true, false) => Change::Kept,
        (false, true, true) => Change::To(json!({ SCRAPE: null, PORT: null, PATH: null })),
        (true, true, true) | (false, _, _) => Change::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "annotations": annotations } })).unwrap()
    }

    #[test]
    fn annotations_of_applications_stay() {
        let own = pod(json!({ SCRAPE: "true", PORT: "8080" }));
        assert_eq!(annotations(&own, true), Change::Kept);
        assert_eq!(annotations(&own, false), Change::None);
    }

    #[test]
    fn what_was_enabled_can_be_disabled() {
        let Change::To(added) = annotations(&pod(json!({})), true) else {
            panic!("nothing was added");
        };
        let enabled = pod(added);
        assert_eq!(annotations(&enabled, true), Change::None);
        let removed = json!({ SCRAPE: null, PORT: null, PATH: null });
        assert_eq!(annotations(&enabled, false), Change::To(removed));
        assert_eq!(annotations(&pod(json!({})), false), Change::None);
    }
}
