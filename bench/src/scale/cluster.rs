//! The mesh in a real API server. Nothing runs in its pods; their status is written as a kubelet would.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use weir_cluster::{ApiServer, programs};

use super::{
    layout::Layout,
    manifests::{self, SYSTEM},
};

const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart/crds");
const JSON: &str = "application/json";
/// Requests at once.
const AT_ONCE: usize = 16;
/// How long the API server may take to serve a kind that it has just learnt.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// An API server with the mesh's kinds.
pub(super) struct Cluster {
    server: ApiServer,
}

impl Cluster {
    /// Starts one that has a MeshConfig.
    ///
    /// # Errors
    /// When a program of Kubernetes or etcd is missing or fails.
    pub(super) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let programs = programs::find(programs::API_SERVER).map_err(anyhow::Error::msg)?;
        let server = ApiServer::start(&programs, &directory.join("cluster")).await?;
        let cluster = Self { server };
        for crd in crds()? {
            let text = fs::read_to_string(&crd).with_context(|| format!("cannot read {}", crd.display()))?;
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            cluster
                .send(Method::POST, path, "application/yaml", text)
                .await
                .with_context(|| format!("cannot create {}", crd.display()))?;
        }
        cluster.create(&manifests::namespace(SYSTEM)).await?;
        let until = Instant::now() + PATIENCE;
        while let Err(error) = cluster.create(&manifests::mesh_config()).await {
            ensure!(
                Instant::now() < until,
                "the API server does not take a MeshConfig: {error:#}"
            );
            sleep(LOOK_AGAIN).await;
        }
        Ok(cluster)
    }

    /// The administrator's kubeconfig.
    pub(super) fn kubeconfig(&self) -> &Path {
        self.server.kubeconfig()
    }

    /// Adds a part of the mesh, and says which UIDs its pods have.
    pub(super) async fn add(&self, layout: &Layout) -> anyhow::Result<Vec<String>> {
        self.create_all(layout.namespaces().map(|name| manifests::namespace(&name)))
            .await?;
        let apps = (0..layout.apps()).flat_map(|app| manifests::app(layout, app));
        self.create_all(apps.filter(|object| object["kind"] != "Pod"))
            .await?;
        let slices = (0..layout.services).map(|service| manifests::slice(layout, service, true));
        self.create_all(slices).await?;
        let pods = (0..layout.pods).map(|pod| self.create_pod(layout, pod));
        stream::iter(pods).buffered(AT_ONCE).try_collect().await
    }

    async fn create_pod(&self, layout: &Layout, pod: usize) -> anyhow::Result<String> {
        let object = manifests::pod(layout, pod);
        let created = self.create(&object).await?;
        let path = format!("{}/{}/status", collection(&object)?, layout.pod_name(pod));
        self.merge(&path, &json!({ "status": manifests::status(layout, pod) }))
            .await?;
        let uid = created["metadata"]["uid"].as_str();
        Ok(uid.context("the API server gave a pod no UID")?.to_owned())
    }

    /// Makes the first endpoint of a service ready or not.
    pub(super) async fn change(&self, layout: &Layout, service: usize, ready: bool) -> anyhow::Result<()> {
        let slice = manifests::slice(layout, service, ready);
        let path = format!("{}/{}", collection(&slice)?, layout.service_name(service));
        self.merge(&path, &json!({ "endpoints": slice["endpoints"] }))
            .await
    }

    /// The key and the certificate of the controller's root.
    pub(super) async fn root(&self) -> anyhow::Result<(String, String)> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/weir-ca-bundle");
        let secret = self.send(Method::GET, &path, JSON, String::new()).await?;
        let read = |key: &str| {
            let text = secret["data"][key].as_str();
            let text = text.with_context(|| format!("no {key} in Secret weir-ca-bundle"))?;
            anyhow::Ok(String::from_utf8(STANDARD.decode(text)?)?)
        };
        Ok((read("ca.key")?, read("ca.crt")?))
    }

    async fn create_all(&self, objects: impl Iterator<Item = Value>) -> anyhow::Result<()> {
        let creations = objects.map(|object| async move { self.create(&object).await.map(drop) });
        stream::iter(creations)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn create(&self, object: &Value) -> anyhow::Result<Value> {
        let path = collection(object)?;
        let name = &object["metadata"]["name"];
        self.send(Method::POST, &path, JSON, object.to_string())
            .await
            .with_context(|| format!("cannot create {name} in {path}"))
    }

    async fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<()> {
        self.send(
            Method::PATCH,
            path,
            "application/merge-patch+json",
            patch.to_string(),
        )
        .await
        .with_context(|| format!("cannot change {path}"))?;
        Ok(())
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: String) -> anyhow::Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .header("accept", JSON)
            .body(body.into_bytes())?;
        Ok(self.server.client().request(request).await?)
    }
}

fn crds() -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(CRDS).with_context(|| format!("cannot list {CRDS}"))?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    paths.collect()
}

/// Where objects of a kind are.
fn collection(object: &Value) -> anyhow::Result<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let Some((version, kind)) = text(&object["apiVersion"]).zip(text(&object["kind"])) else {
        bail!("no kind: {object}");
    };
    let group = if version.contains('/') { "apis" } else { "api" };
    let namespace = text(&object["metadata"]["namespace"]);
    let namespace = namespace.map_or_else(String::new, |name| format!("namespaces/{name}/"));
    Ok(format!("/{group}/{version}/{namespace}{}s", kind.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_where_the_api_server_has_them() {
        assert_eq!(
            collection(&manifests::namespace("a")).unwrap(),
            "/api/v1/namespaces"
        );
        assert_eq!(
            collection(&manifests::mesh_config()).unwrap(),
            "/apis/config.openservicemesh.io/v1alpha2/namespaces/weir-system/meshconfigs"
        );
    }
}
