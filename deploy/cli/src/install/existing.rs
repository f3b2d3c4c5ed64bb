//! What is in the cluster already: this mesh, another, or OSM.

use std::fmt;

use anyhow::bail;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, apps::v1::Deployment};
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    api::explain,
    manifests::{CONTROLLER, MESH_NAME_LABEL},
};

/// Annotation of the controller's Deployment: the values it was installed with, without the defaults.
pub(crate) const VALUES_ANNOTATION: &str = "openservicemesh.io/weir-values";
/// The oldest Kubernetes on which the mesh runs: namespaces carry `kubernetes.io/metadata.name` from there on.
const OLDEST: (u32, u32) = (1, 22);
/// The webhook of OSM's injector.
const OSM_WEBHOOK: &str = "osm-inject.k8s.io";
const MONITORED_BY: &str = "openservicemesh.io/monitored-by";

/// A control plane of this mesh.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    /// Where it is.
    pub(crate) namespace: String,
    /// The mesh's name.
    pub(crate) mesh_name: String,
    /// Its version.
    pub(crate) version: String,
    /// The values it was installed with.
    pub(crate) values: Value,
    /// Whether Helm looks after it.
    pub(crate) by_helm: bool,
}

impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mesh {} {} in namespace {}",
            self.mesh_name, self.version, self.namespace
        )
    }
}

/// The control planes of this mesh in all namespaces.
///
/// # Errors
/// When the API server does not say.
pub(crate) async fn find(client: &Client) -> anyhow::Result<Vec<Installed>> {
    let selector = format!("app={CONTROLLER},app.kubernetes.io/part-of=weir");
    let deployments: Api<Deployment> = Api::all(client.clone());
    let found = deployments.list(&ListParams::default().labels(&selector)).await;
    Ok(found.map_err(explain)?.items.into_iter().map(installed).collect())
}

fn installed(deployment: Deployment) -> Installed {
    let label = |name: &str| deployment.labels().get(name).cloned();
    let values = deployment.annotations().get(VALUES_ANNOTATION);
    Installed {
        namespace: deployment.namespace().unwrap_or_default(),
        mesh_name: label(MESH_NAME_LABEL).unwrap_or_default(),
        version: label("app.kubernetes.io/version").unwrap_or_default(),
        values: values
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_else(|| json!({})),
        by_helm: label("app.kubernetes.io/managed-by").as_deref() == Some("Helm"),
    }
}

/// Makes sure that the mesh may be brought to `namespace`.
///
/// # Errors
/// When Helm looks after it, when it is in another namespace, when OSM injects the same namespaces, or when the
/// cluster is too old.
pub(crate) async fn check(
    client: &Client,
    found: &[Installed],
    namespace: &str,
    mesh_name: &str,
) -> anyhow::Result<()> {
    for mesh in found {
        if mesh.namespace != namespace {
            bail!(
                "{mesh} is installed already, and a cluster holds one; add --weir-namespace {} to change it, or uninstall it",
                mesh.namespace
            );
        }
        if mesh.by_helm {
            bail!("{mesh} was installed with Helm; change it with `helm upgrade` and `helm uninstall`");
        }
    }
    check_version(client).await?;
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhooks = webhooks.list(&ListParams::default()).await.map_err(explain)?;
    if let Some(other) = webhooks.iter().find(|webhook| is_osm_of(webhook, mesh_name)) {
        bail!(
            "Open Service Mesh injects the namespaces of mesh {mesh_name} (MutatingWebhookConfiguration {}); uninstall it, or choose another name with --mesh-name",
            other.name_any()
        );
    }
    Ok(())
}

async fn check_version(client: &Client) -> anyhow::Result<()> {
    let version = client.apiserver_version().await.map_err(explain)?;
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().ok();
    match (number(&version.major), number(&version.minor)) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => bail!(
            "the cluster runs Kubernetes {}, and the mesh needs {}.{} or later; upgrade the cluster",
            version.git_version,
            OLDEST.0,
            OLDEST.1
        ),
        _ => Ok(()),
    }
}

fn is_osm_of(configuration: &MutatingWebhookConfiguration, mesh_name: &str) -> bool {
    configuration.webhooks.iter().flatten().any(|webhook| {
        let labels = webhook
            .namespace_selector
            .as_ref()
            .and_then(|it| it.match_labels.as_ref());
        webhook.name == OSM_WEBHOOK
            && labels
                .and_then(|labels| labels.get(MONITORED_BY))
                .is_some_and(|name| name == mesh_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(name: &str, mesh: &str) -> MutatingWebhookConfiguration {
        let configuration = json!({
            "metadata": { "name": "w" },
            "webhooks": [{
                "name": name,
                "admissionReviewVersions": ["v1"],
                "clientConfig": {},
                "sideEffects": "None",
                "namespaceSelector": { "matchLabels": { MONITORED_BY: mesh } },
            }],
        });
        serde_json::from_value(configuration).unwrap()
    }

    #[test]
    fn only_osm_of_the_same_mesh_is_in_the_way() {
        assert!(is_osm_of(&webhook(OSM_WEBHOOK, "osm"), "osm"));
        assert!(!is_osm_of(&webhook(OSM_WEBHOOK, "other"), "osm"));
        assert!(!is_osm_of(&webhook("weir-inject.k8s.io", "osm"), "osm"));
    }

    #[test]
    fn an_installation_tells_what_it_was_made_with() {
        let deployment = json!({
            "metadata": {
                "namespace": "ns",
                "labels": { "meshName": "m", "app.kubernetes.io/version": "0.0.9" },
                "annotations": { VALUES_ANNOTATION: r#"{"meshName":"m"}"# },
            },
        });
        let mesh = installed(serde_json::from_value(deployment).unwrap());
        assert_eq!(mesh.to_string(), "mesh m 0.0.9 in namespace ns");
        assert_eq!(mesh.values, json!({ "meshName": "m" }));
        assert!(!mesh.by_helm);
    }
}
