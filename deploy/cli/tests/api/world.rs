//! The API server that all tests share, with the mesh installed in it and two controllers at work.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::Secret,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::Command,
    sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{sleep, timeout},
};
use weir_cluster::ApiServer;

use crate::controller::Controller;

/// The namespace of the control plane.
pub(crate) const SYSTEM: &str = "weir-system";
/// How long a condition may take to come true. Far more than it needs: a busy machine is not a broken mesh.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const COMMAND: Duration = Duration::from_secs(60);
const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// The API server and the mesh.
pub(crate) struct World {
    // Controllers go before the API server does.
    controllers: [Controller; 2],
    api_server: Mutex<ApiServer>,
    programs: PathBuf,
    client: Client,
    gate: RwLock<()>,
    roots: parking_lot::Mutex<String>,
    _directory: TempDir,
}

impl World {
    /// Starts everything, and waits until webhooks answer.
    pub(crate) async fn start(programs: &Path, sandboxed: bool) -> anyhow::Result<Self> {
        if sandboxed {
            loopback().await?;
        }
        let directory = tempfile::tempdir()?;
        let api_server = ApiServer::start(programs, &directory.path().join("api-server")).await?;
        let kubeconfig = api_server.kubeconfig().to_owned();
        let enforce = "meshConfig.spec.traffic.enablePermissiveTrafficPolicyMode=false";
        weir(&kubeconfig, &["install", "--no-wait", "--set", enforce]).await?;
        // What the controllers may do is what their ServiceAccount may.
        let account = format!("system:serviceaccount:{SYSTEM}:weir-controller");
        let limited = api_server.kubeconfig_for("controller", &account, None)?;
        let controller = |name: &str| Controller::start(name, &limited, directory.path());
        let world = Self {
            controllers: [controller("first")?, controller("second")?],
            client: api_server.client(),
            api_server: Mutex::new(api_server),
            programs: programs.to_owned(),
            gate: RwLock::default(),
            roots: parking_lot::Mutex::default(),
            _directory: directory,
        };
        match world.connect_webhooks().await {
            Ok(()) => Ok(world),
            Err(error) => Err(error.context(world.evidence().await)),
        }
    }

    /// There are no Services here: the API server is told where the first controller is.
    async fn connect_webhooks(&self) -> anyhow::Result<()> {
        for controller in &self.controllers {
            controller.ready().await?;
        }
        let ports = &self.controllers[0].ports;
        let to = |name: &str, port: u16, path: &str| {
            let url = format!("https://localhost:{port}{path}");
            Patch::Strategic(
                json!({"webhooks": [{"name": name, "clientConfig": {"service": null, "url": url}}]}),
            )
        };
        let patch = to("weir-inject.k8s.io", ports.injector, "/mutate-pod-creation");
        let injector = Api::<MutatingWebhookConfiguration>::all(self.client());
        injector
            .patch("weir-injector", &PatchParams::default(), &patch)
            .await?;
        let patch = to("weir-validate.k8s.io", ports.validator, "/validate");
        let validator = Api::<ValidatingWebhookConfiguration>::all(self.client());
        validator
            .patch("weir-validator", &PatchParams::default(), &patch)
            .await?;
        eventually("the webhooks to be trusted", || async {
            let roots = self.roots().await?;
            ensure!(self.bundles().await? == [Some(roots.clone()), Some(roots)]);
            Ok(())
        })
        .await
    }

    /// The roots that the webhooks' callers trust: the injector's and the validator's.
    pub(crate) async fn bundles(&self) -> anyhow::Result<[Option<String>; 2]> {
        let injector = Api::<MutatingWebhookConfiguration>::all(self.client());
        let injector = injector.get("weir-injector").await?.webhooks.unwrap_or_default();
        let validator = Api::<ValidatingWebhookConfiguration>::all(self.client());
        let validator = validator
            .get("weir-validator")
            .await?
            .webhooks
            .unwrap_or_default();
        let mut clients = injector
            .into_iter()
            .map(|it| it.client_config)
            .chain(validator.into_iter().map(|it| it.client_config))
            .map(|it| it.ca_bundle.and_then(|bytes| String::from_utf8(bytes.0).ok()));
        Ok([clients.next().flatten(), clients.next().flatten()])
    }

    /// The roots of the mesh, as the cluster keeps them.
    pub(crate) async fn roots(&self) -> anyhow::Result<String> {
        let secrets = Api::<Secret>::namespaced(self.client(), SYSTEM);
        let data = secrets.get("weir-ca-bundle").await?.data.unwrap_or_default();
        let roots = data.get("ca.crt").context("no ca.crt")?;
        let roots = String::from_utf8(roots.0.clone())?;
        roots.clone_into(&mut self.roots.lock());
        Ok(roots)
    }

    /// The roots, or those that were last seen when the API server is away.
    pub(crate) async fn last_roots(&self) -> String {
        match self.roots().await {
            Ok(roots) => roots,
            Err(_) => self.roots.lock().clone(),
        }
    }

    /// The administrator's client.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// One of the two controllers. The webhooks are the first one's.
    pub(crate) fn controller(&self, index: usize) -> &Controller {
        &self.controllers[index]
    }

    /// The API server itself.
    pub(crate) async fn api_server(&self) -> MutexGuard<'_, ApiServer> {
        self.api_server.lock().await
    }

    /// Where the programs of Kubernetes are.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    /// While the guard lives nobody disturbs what all share.
    pub(crate) async fn beside(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// While the guard lives nobody relies on what all share.
    pub(crate) async fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// Merges a change into MeshConfig.
    pub(crate) async fn configure(&self, change: &Value) -> anyhow::Result<()> {
        let object = json!({"apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig",
            "metadata": {"name": "osm-mesh-config", "namespace": SYSTEM}});
        let api = weir::api::api_of(&self.client(), &serde_json::from_value(object)?)?;
        api.patch("osm-mesh-config", &PatchParams::default(), &Patch::Merge(change))
            .await?;
        Ok(())
    }

    /// The ends of the controllers' logs.
    pub(crate) async fn evidence(&self) -> String {
        let mut text = String::new();
        for controller in &self.controllers {
            text.push_str(&controller.evidence());
        }
        text
    }
}

/// Runs `weir` with a kubeconfig; what it prints, when it ends well.
pub(crate) async fn weir(kubeconfig: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let run = Command::new(WEIR)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        // It is a program of its own here, not a stage of the sandbox.
        .env_remove("WEIR_SANDBOX")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let what = format!("weir {}", arguments.join(" "));
    let ended = timeout(COMMAND, run).await;
    let output = ended.with_context(|| format!("{what}: not done within {COMMAND:?}"))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    ensure!(
        output.status.success(),
        "{what}: {}\n{printed}{errors}",
        output.status
    );
    Ok(printed)
}

/// Tries until it succeeds; the last error when it does not.
pub(crate) async fn eventually<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let begun = Instant::now();
    loop {
        let error = match timeout(PATIENCE, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("an attempt took longer than {PATIENCE:?}"),
        };
        if begun.elapsed() > PATIENCE {
            return Err(error.context(format!("{what}: not so within {PATIENCE:?}")));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Whether etcd is there, beside the API server or in PATH.
pub(crate) fn etcd(programs: &Path) -> Result<(), String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories = env::split_paths(&path).chain([programs.to_owned()]);
    match directories.any(|directory| directory.join("etcd").is_file()) {
        true => Ok(()),
        false => Err("needs etcd; install the package etcd-server".to_owned()),
    }
}

/// A sandbox begins without a network.
async fn loopback() -> anyhow::Result<()> {
    let ended = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .await;
    match ended.context("cannot start ip; install the package iproute2")? {
        status if status.success() => Ok(()),
        status => bail!("ip link set lo up: {status}"),
    }
}
