//! Which objects are the mesh's.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    api::explain,
    manifests::{self, CA_SECRET, CONTROLLER, Values},
};

const POLL: Duration = Duration::from_millis(500);
/// What the controllers made themselves.
const MADE: [(&str, &str, &str); 2] = [
    ("v1", "Secret", CA_SECRET),
    ("coordination.k8s.io/v1", "Lease", CONTROLLER),
];
/// Kinds that tell whether a namespace is used by others.
const USES: [(&str, &str, &str); 9] = [
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "Secret"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "PersistentVolumeClaim"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "StatefulSet"),
    ("apps", "v1", "DaemonSet"),
    ("batch", "v1", "Job"),
];

/// The webhooks and the controllers.
pub(super) fn writers(namespace: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let mut objects = installed(namespace)?;
    objects.retain(is_writer);
    objects.reverse();
    Ok(objects)
}

/// Everything else, but for the namespace, in the order in which it can go.
pub(super) fn rest(namespace: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let mut objects = installed(namespace)?;
    objects.retain(|object| !is_writer(object) && kind(object) != "Namespace");
    objects.reverse();
    for (version, kind, name) in MADE {
        objects.push(named(&json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": { "name": name, "namespace": namespace },
        }))?);
    }
    Ok(objects)
}

fn installed(namespace: &str) -> anyhow::Result<Vec<DynamicObject>> {
    manifests::objects(namespace, &Values::new(&[])?)
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

fn is_writer(object: &DynamicObject) -> bool {
    kind(object) == "Deployment" || kind(object).ends_with("WebhookConfiguration")
}

/// An object by its kind and name alone.
pub(super) fn named(object: &Value) -> anyhow::Result<DynamicObject> {
    let metadata = object.get("metadata").context("an object has no metadata")?;
    let named = json!({
        "apiVersion": object.get("apiVersion"),
        "kind": object.get("kind"),
        "metadata": { "name": metadata.get("name"), "namespace": metadata.get("namespace") },
    });
    serde_json::from_value(named).context("an object has no kind")
}

/// Waits until no controller runs any more.
pub(super) async fn wait_for_controllers(
    client: &Client,
    namespace: &str,
    deadline: Instant,
) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = ListParams::default().labels(&format!("app={CONTROLLER}"));
    loop {
        let pods = api.list(&selector).await.map_err(explain)?;
        let Some(pod) = pods.iter().next() else {
            return Ok(());
        };
        if Instant::now() > deadline {
            bail!(
                "Pod {namespace}/{} is still there; see kubectl -n {namespace} describe pod",
                pod.name_any()
            );
        }
        sleep(POLL).await;
    }
}

/// What becomes of the control plane's namespace.
pub(super) enum Fate {
    /// It goes.
    Ours(Box<DynamicObject>),
    /// It stays, and why.
    Kept(String),
    /// It is not there.
    Missing,
}

/// Whether the namespace was made for the mesh and holds nothing else.
pub(super) async fn namespace(client: &Client, name: &str, whatever: bool) -> anyhow::Result<Fate> {
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(there) = api.get_opt(name).await.map_err(explain)? else {
        return Ok(Fate::Missing);
    };
    let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    if whatever {
        return Ok(Fate::Ours(Box::new(named(&object)?)));
    }
    if there
        .labels()
        .get("app.kubernetes.io/part-of")
        .is_none_or(|value| value != "weir")
    {
        return Ok(Fate::Kept(
            "it was not made for the mesh; --delete-namespace deletes it".to_owned(),
        ));
    }
    for (group, version, kind) in USES {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), name, &resource);
        let found = api.list_metadata(&ListParams::default()).await.map_err(explain)?;
        let going = |name: &str| name == "kube-root-ca.crt" || name == CONTROLLER || name == CA_SECRET;
        let other = found
            .iter()
            .find(|it| it.metadata.deletion_timestamp.is_none() && !going(&it.name_any()));
        if let Some(other) = other {
            return Ok(Fate::Kept(format!(
                "{kind} {} is in it; --delete-namespace deletes both",
                other.name_any()
            )));
        }
    }
    Ok(Fate::Ours(Box::new(named(&object)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_goes_once_and_writers_go_first() {
        let writers = writers("ns").unwrap();
        let kinds: Vec<&str> = writers.iter().map(kind).collect();
        assert_eq!(
            kinds,
            [
                "ValidatingWebhookConfiguration",
                "MutatingWebhookConfiguration",
                "Deployment"
            ]
        );
        let rest = rest("ns").unwrap();
        assert_eq!(
            rest.len() + writers.len(),
            installed("ns").unwrap().len() - 1 + MADE.len()
        );
        assert!(rest.iter().any(|object| kind(object) == "Lease"));
    }
}
