//! What is asked of the cluster. What it refuses to tell is a finding, no failure.

use std::time::SystemTime;

use anyhow::Context;
use http_body_util::BodyExt;
use hyper::Request;
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Node, Pod, Secret},
};
use kube::{Api, Client, ResourceExt, api::ListParams, client::Body};
use serde_json::Value;
use weir_controller::catalog::Settings;

use super::{
    clock, control_plane,
    report::{Section, many},
};
use crate::{
    api::explain,
    install::existing::{self, Installed},
    manifests::CONTROLLER,
};

/// Where kubelets keep their Leases.
const LEASES: &str = "kube-node-lease";
/// The minor version from which on sidecars are native.
const NATIVE: u32 = 29;
/// The controller's own default.
const TRUST_DOMAIN: &str = "cluster.local";
/// The oldest that the mesh runs on.
const OLDEST: u32 = 22;

/// What the API server says of itself.
#[derive(Debug)]
pub(super) struct Version {
    git: String,
    minor: u32,
    /// Its clock, in seconds since the epoch.
    date: Option<i64>,
}

/// The mesh that runs.
pub(super) struct Running {
    pub(super) settings: Settings,
    /// The image that new sidecars get, where the controller is told.
    pub(super) proxy_image: Option<String>,
}

/// Asks the API server who it is and what time it has.
///
/// # Errors
/// When it does not answer.
pub(super) async fn version(client: &Client) -> anyhow::Result<Version> {
    let request = Request::get("/version").body(Body::empty())?;
    let answer = client.send(request).await.map_err(explain)?;
    let date = answer
        .headers()
        .get("date")
        .and_then(|date| clock::date(date.to_str().ok()?));
    let body = answer.into_body().collect().await?.to_bytes();
    let told: Value = serde_json::from_slice(&body).context("what it says of its version is not JSON")?;
    let text = |field: &str| told.get(field).and_then(Value::as_str).unwrap_or_default();
    Ok(Version {
        git: text("gitVersion").to_owned(),
        minor: text("minor").trim_end_matches('+').parse().unwrap_or(0),
        date,
    })
}

/// Checks the cluster under the mesh.
pub(super) async fn kubernetes(client: &Client, version: anyhow::Result<Version>) -> Section {
    let mut section = Section::new("Kubernetes");
    let version = match version {
        Ok(version) => version,
        Err(error) => {
            section.error(
                "API server",
                format!("{error:#}"),
                "nothing else can be checked before",
            );
            return section;
        }
    };
    section.note(&version.git);
    if version.minor < OLDEST {
        let remedy = "upgrade the cluster";
        section.error(
            "API server",
            format!("the mesh needs Kubernetes 1.{OLDEST} or later"),
            remedy,
        );
    } else if version.minor < NATIVE {
        section.warning(
            "API server",
            "it has no native sidecars: an application may start before its sidecar, and the pods of Jobs do not end by themselves",
            format!("upgrade the cluster to 1.{NATIVE} or later"),
        );
    }
    match nodes(client).await {
        Ok(nodes) => {
            section.note(many(nodes.len(), "node"));
            if nodes.iter().all(|node| !node.ready) {
                section.error("Nodes", "none is ready", "kubectl describe nodes");
            }
            if let Some(server) = version.date {
                clock::check(server, now(), &nodes, &mut section);
            }
        }
        Err(error) => section.warning(
            "Nodes",
            format!("cannot be read: {error:#}"),
            "clocks are not compared; use an account that may read nodes and their leases",
        ),
    }
    section
}

async fn nodes(client: &Client) -> anyhow::Result<Vec<clock::Node>> {
    let all = ListParams::default();
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let nodes: Api<Node> = Api::all(client.clone());
    let (nodes, leases) = tokio::try_join!(nodes.list(&all), leases.list(&all)).map_err(explain)?;
    let renewed = |node: &str| {
        let lease = leases.iter().find(|lease| lease.name_any() == node)?;
        Some(lease.spec.as_ref()?.renew_time.as_ref()?.0.as_second())
    };
    let node = |node: &Node| {
        let conditions = node
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
        let name = node.name_any();
        clock::Node {
            renewed: renewed(&name),
            ready: ready.any(|condition| condition.status == "True"),
            name,
        }
    };
    Ok(nodes.iter().map(node).collect())
}

/// Checks the control plane. Gives the mesh, where there is one.
pub(super) async fn control_plane(client: &Client, namespace: &str) -> (Section, Option<Running>) {
    let mut section = Section::new("control plane");
    match gather(client, namespace, &mut section).await {
        Ok(running) => (section, running),
        Err(error) => {
            let remedy = "use an account that may read it";
            section.error(
                format!("Namespace {namespace}"),
                format!("cannot be read: {error:#}"),
                remedy,
            );
            (section, None)
        }
    }
}

async fn gather(client: &Client, namespace: &str, section: &mut Section) -> anyhow::Result<Option<Running>> {
    let found = existing::find(client).await?;
    let Some(mesh) = found.iter().find(|mesh| mesh.namespace == namespace) else {
        absent(&found, namespace, section);
        return Ok(None);
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deployment = deployments.get(CONTROLLER).await.map_err(explain)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods
        .list(&ListParams::default().labels(&format!("app={CONTROLLER}")))
        .await;
    control_plane::deployment(namespace, &deployment, &pods.map_err(explain)?.items, section);
    control_plane::version(namespace, &mesh.version, section);
    let root = root(client, namespace, section).await;
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let mutating = mutating.get_opt(control_plane::INJECTOR).await.map_err(explain)?;
    control_plane::injector(mutating.as_ref(), root.as_deref(), section);
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let validating = validating
        .get_opt(control_plane::VALIDATOR)
        .await
        .map_err(explain)?;
    control_plane::validator(validating.as_ref(), root.as_deref(), section);
    Ok(Some(Running {
        settings: told(mesh, &deployment),
        proxy_image: control_plane::argument(&deployment, "--proxy-image="),
    }))
}

/// What the catalog of the controller in `namespace` was told.
///
/// # Errors
/// When there is none, or the API server does not say.
pub(super) async fn settings(client: &Client, namespace: &str) -> anyhow::Result<Settings> {
    let found = existing::find(client).await?;
    let Some(mesh) = found.iter().find(|mesh| mesh.namespace == namespace) else {
        let mut section = Section::new("control plane");
        absent(&found, namespace, &mut section);
        anyhow::bail!("{}", section.first());
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deployment = deployments.get(CONTROLLER).await.map_err(explain)?;
    Ok(told(mesh, &deployment))
}

fn told(mesh: &Installed, deployment: &Deployment) -> Settings {
    let trust_domain = control_plane::argument(deployment, "--trust-domain=");
    Settings {
        mesh_name: mesh.mesh_name.clone(),
        trust_domain: trust_domain.unwrap_or_else(|| TRUST_DOMAIN.to_owned()),
        namespace: mesh.namespace.clone(),
    }
}

fn absent(found: &[Installed], namespace: &str, section: &mut Section) {
    let object = format!("Namespace {namespace}");
    match found.first() {
        None => section.error(object, "there is no mesh in the cluster", "run `weir install`"),
        Some(other) => section.error(
            object,
            format!("the mesh is in namespace {}", other.namespace),
            format!("add --weir-namespace {}", other.namespace),
        ),
    }
}

/// The mesh's root, which not everybody may read.
async fn root(client: &Client, namespace: &str, section: &mut Section) -> Option<String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let object = format!("Secret {namespace}/{}", control_plane::ROOT_SECRET);
    let secret = match secrets.get_opt(control_plane::ROOT_SECRET).await {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            let remedy = "see the controllers' logs: the first of them makes it";
            section.error(object, "it does not exist, and with it the mesh's root", remedy);
            return None;
        }
        Err(error) => {
            let remedy = "use an account that may, to check when the root expires";
            section.warning(object, format!("cannot be read: {:#}", explain(error)), remedy);
            return None;
        }
    };
    let root = control_plane::root(&secret).unwrap_or_default();
    control_plane::expiry(namespace, &root, now(), section);
    Some(root)
}

/// Seconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
