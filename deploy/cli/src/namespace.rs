//! `weir namespace`: which namespaces belong to the mesh.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    api::{self, FIELD_MANAGER, explain},
    columns::columns,
    install::existing::{self, Installed},
};

pub(crate) const MONITORED_BY: &str = "openservicemesh.io/monitored-by";
pub(crate) const INJECTION: &str = "openservicemesh.io/sidecar-injection";
pub(crate) const METRICS: &str = "openservicemesh.io/metrics";
const IGNORE: &str = "openservicemesh.io/ignore";
/// What the injector never touches, whatever its labels.
const RESERVED: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Flags of `weir namespace`.
#[derive(clap::Args, Clone, Debug)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Adds namespaces to the mesh. Pods made from then on get a sidecar.
    Add {
        /// The namespaces.
        #[arg(required = true, value_name = "NAMESPACE")]
        namespaces: Vec<String>,
        #[command(flatten)]
        mesh: MeshName,
        /// Add no sidecars, except to pods whose own annotation asks for one.
        #[arg(long)]
        disable_sidecar_injection: bool,
    },
    /// Removes namespaces from the mesh. Pods keep their sidecars until they are made anew.
    Remove {
        /// The namespaces.
        #[arg(required = true, value_name = "NAMESPACE")]
        namespaces: Vec<String>,
        #[command(flatten)]
        mesh: MeshName,
    },
    /// Keeps namespaces out of every mesh.
    Ignore {
        /// The namespaces.
        #[arg(required = true, value_name = "NAMESPACE")]
        namespaces: Vec<String>,
    },
    /// Lists the namespaces of meshes.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        mesh: MeshName,
    },
}

#[derive(clap::Args, Clone, Debug)]
struct MeshName {
    /// Name of the mesh [default: that of the mesh in the cluster; for list: all].
    #[arg(long, value_name = "NAME")]
    mesh_name: Option<String>,
}

/// Adds, removes or lists namespaces.
///
/// # Errors
/// When a namespace is not there, may not be added, or the API server refuses.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let client = api::connect(cluster).await?;
    let api: Api<Namespace> = Api::all(client.clone());
    match &args.action {
        Action::Add {
            namespaces,
            mesh,
            disable_sidecar_injection,
        } => {
            let mesh = mesh.installed(&client).await?;
            for name in namespaces {
                add(&api, name, &mesh, !disable_sidecar_injection).await?;
            }
        }
        Action::Remove { namespaces, mesh } => {
            for name in namespaces {
                remove(&api, name, mesh.mesh_name.as_deref()).await?;
            }
        }
        Action::Ignore { namespaces } => {
            for name in namespaces {
                patch(&api, name, &json!({ "labels": { IGNORE: "true" } })).await?;
                writeln!(io::stdout(), "Namespace [{name}] is ignored by every mesh")?;
            }
        }
        Action::List { mesh } => list(&api, mesh.mesh_name.as_deref()).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl MeshName {
    /// The mesh that is meant, which must be there.
    async fn installed(&self, client: &Client) -> anyhow::Result<Installed> {
        let found = existing::find(client).await?;
        let Some(wanted) = &self.mesh_name else {
            let mut found = found.into_iter();
            return match (found.next(), found.next()) {
                (Some(mesh), None) => Ok(mesh),
                (None, _) => bail!("there is no mesh in the cluster; run `weir install`"),
                (Some(_), Some(_)) => bail!("there is more than one mesh; say which with --mesh-name"),
            };
        };
        let names: Vec<String> = found.iter().map(|mesh| mesh.mesh_name.clone()).collect();
        let found = found.into_iter().find(|mesh| mesh.mesh_name == *wanted);
        found.with_context(|| match names.as_slice() {
            [] => format!(
                "mesh [{wanted}] does not exist, and no other; run `weir install --mesh-name {wanted}`"
            ),
            names => format!(
                "mesh [{wanted}] does not exist; say one of {} with --mesh-name",
                names.join(", ")
            ),
        })
    }
}

async fn add(api: &Api<Namespace>, name: &str, mesh: &Installed, inject: bool) -> anyhow::Result<()> {
    let mesh_name = &mesh.mesh_name;
    let there = api.get(name).await.map_err(explain);
    let there = there.with_context(|| format!("cannot add namespace [{name}] to mesh [{mesh_name}]"))?;
    if let Some(why) = refusal(&there, mesh) {
        bail!("cannot add namespace [{name}] to mesh [{mesh_name}]: {why}");
    }
    let injection = if inject { "enabled" } else { "disabled" };
    let label = |key: &str| there.labels().get(key).map(String::as_str);
    let same = label(MONITORED_BY) == Some(mesh_name.as_str())
        && there
            .annotations()
            .get(INJECTION)
            .is_some_and(|value| value == injection);
    if same {
        writeln!(
            io::stdout(),
            "Namespace [{name}] has already been added to mesh [{mesh_name}]"
        )?;
        return Ok(());
    }
    let metadata = json!({
        "labels": { MONITORED_BY: mesh_name },
        "annotations": { INJECTION: injection },
    });
    patch(api, name, &metadata).await?;
    let mut out = io::stdout();
    writeln!(out, "Namespace [{name}] successfully added to mesh [{mesh_name}]")?;
    if inject {
        writeln!(
            out,
            "Pods get their sidecar when they are made: kubectl -n {name} rollout restart deployment"
        )?;
    }
    Ok(())
}

/// Why a namespace cannot be in the mesh, and what to do.
fn refusal(namespace: &Namespace, mesh: &Installed) -> Option<String> {
    let name = namespace.name_any();
    let labels = namespace.labels();
    if name == mesh.namespace {
        return Some("the mesh's own control plane is in it; choose another namespace".to_owned());
    }
    if RESERVED.contains(&name.as_str()) || labels.contains_key("control-plane") {
        return Some("it belongs to the cluster itself, where no pod may depend on the mesh".to_owned());
    }
    if labels.contains_key(IGNORE) {
        return Some(format!(
            "it is ignored; remove the label first: kubectl label namespace {name} {IGNORE}-"
        ));
    }
    let other = labels.get(MONITORED_BY).filter(|other| **other != mesh.mesh_name);
    other.map(|other| {
        format!("it belongs to mesh [{other}]; run `weir namespace remove {name} --mesh-name {other}` first")
    })
}

async fn remove(api: &Api<Namespace>, name: &str, mesh_name: Option<&str>) -> anyhow::Result<()> {
    let there = api.get(name).await.map_err(explain);
    let there = there.with_context(|| format!("cannot remove namespace [{name}]"))?;
    let Some(mesh) = there.labels().get(MONITORED_BY) else {
        writeln!(
            io::stdout(),
            "Namespace [{name}] already does not belong to any mesh"
        )?;
        return Ok(());
    };
    if let Some(wanted) = mesh_name.filter(|wanted| wanted != mesh) {
        bail!(
            "namespace [{name}] belongs to mesh [{mesh}], not mesh [{wanted}]; say so with --mesh-name {mesh}"
        );
    }
    let metadata = json!({
        "labels": { MONITORED_BY: null },
        "annotations": { INJECTION: null, METRICS: null },
    });
    patch(api, name, &metadata).await?;
    let mut out = io::stdout();
    writeln!(out, "Namespace [{name}] successfully removed from mesh [{mesh}]")?;
    writeln!(
        out,
        "Its pods keep their sidecars until they are made anew: kubectl -n {name} rollout restart deployment"
    )?;
    Ok(())
}

pub(crate) async fn patch(api: &Api<Namespace>, name: &str, metadata: &Value) -> anyhow::Result<()> {
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let done = api
        .patch_metadata(name, &parameters, &patch)
        .await
        .map_err(explain);
    done.with_context(|| format!("cannot change namespace [{name}]"))?;
    Ok(())
}

async fn list(api: &Api<Namespace>, mesh_name: Option<&str>) -> anyhow::Result<()> {
    let selector = match mesh_name {
        Some(mesh) => format!("{MONITORED_BY}={mesh}"),
        None => MONITORED_BY.to_owned(),
    };
    let found = api
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(explain)?;
    let mut out = io::stdout();
    if found.items.is_empty() {
        match mesh_name {
            Some(mesh) => writeln!(out, "No namespaces in mesh [{mesh}]")?,
            None => writeln!(out, "No namespaces in any mesh")?,
        }
        return Ok(());
    }
    let mut rows = vec![
        ["NAMESPACE", "MESH", "SIDECAR-INJECTION", "METRICS"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(found.iter().map(row));
    write!(out, "{}", columns(&rows))?;
    Ok(())
}

fn row(namespace: &Namespace) -> Vec<String> {
    let or_dash = |value: Option<&String>| value.cloned().unwrap_or_else(|| "-".to_owned());
    let annotations = namespace.annotations();
    let injection = match namespace.labels().contains_key(IGNORE) {
        true => "disabled (ignored)".to_owned(),
        false => or_dash(annotations.get(INJECTION)),
    };
    vec![
        namespace.name_any(),
        or_dash(namespace.labels().get(MONITORED_BY)),
        injection,
        or_dash(annotations.get(METRICS)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> Installed {
        Installed {
            namespace: "weir-system".to_owned(),
            mesh_name: "osm".to_owned(),
            version: "0.1.0".to_owned(),
            values: Value::Null,
            by_helm: false,
        }
    }

    fn namespace(name: &str, labels: Value) -> Namespace {
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).unwrap()
    }

    #[test]
    fn only_namespaces_of_applications_are_added() {
        let refused = |name, labels| refusal(&namespace(name, labels), &mesh());
        assert_eq!(refused("shop", json!({})), None);
        assert_eq!(refused("shop", json!({ MONITORED_BY: "osm" })), None);
        assert!(
            refused("shop", json!({ MONITORED_BY: "other" }))
                .unwrap()
                .contains("mesh [other]")
        );
        assert!(
            refused("shop", json!({ IGNORE: "false" }))
                .unwrap()
                .contains("is ignored")
        );
        assert!(refused("shop", json!({ "control-plane": "x" })).is_some());
        assert!(refused("kube-system", json!({})).is_some());
        assert!(refused("weir-system", json!({})).is_some());
    }

    #[test]
    fn ignored_namespaces_are_shown_so() {
        let ignored = namespace("shop", json!({ MONITORED_BY: "osm", IGNORE: "true" }));
        assert_eq!(row(&ignored), ["shop", "osm", "disabled (ignored)", "-"]);
    }
}
