//! The cluster that all cases share, with the mesh installed in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::{
    process::Command,
    runtime::Handle,
    sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::timeout,
};
use weir_cluster::Node;
use weir_testbed::Sandbox;

use crate::{
    images,
    scene::{Target, patch, pods},
};

/// The name of the mesh.
pub(crate) const MESH: &str = "osm";
/// The namespace of the control plane.
pub(crate) const SYSTEM: &str = "weir-system";
/// Who the tests are, to server-side apply.
pub(crate) const FIELD_MANAGER: &str = "weir-test";
const WEIR: &str = env!("CARGO_BIN_EXE_weir");
/// By this the stages of the sandbox know each other, of which a program run in it is none.
const SANDBOX: &str = "WEIR_SANDBOX";
/// How long a run of `weir` may take.
const COMMAND: Duration = Duration::from_secs(180);

/// The cluster and the mesh in it.
pub(crate) struct World {
    kubeconfig: PathBuf,
    client: Client,
    runtime: Handle,
    /// What MeshConfig says. Who relies on it holds it for reading, who changes it for writing.
    mode: RwLock<Mode>,
    node: Mutex<Option<Node>>,
}

/// What the mesh does without policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Whatever was left behind.
    #[default]
    Unknown,
    /// Everybody may.
    Permissive,
    /// Nobody may.
    Enforcing,
}

impl World {
    /// Starts a node with the images of this build on it.
    pub(crate) async fn start(sandbox: &Sandbox, programs: &Path) -> anyhow::Result<Self> {
        let scratch = sandbox.scratch().join("images");
        fs::create_dir_all(&scratch)?;
        let images = images::pack(&scratch)?;
        let node = Node::start(sandbox, programs, &images).await?;
        fs::remove_dir_all(&scratch)?;
        let kubeconfig = node.kubeconfig().to_owned();
        Ok(Self::new(kubeconfig, node.client(), Some(node)))
    }

    /// The cluster of a kubeconfig, whose nodes have the images, or a registry to get them from.
    pub(crate) async fn of(kubeconfig: &Path) -> anyhow::Result<Self> {
        let read = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Ok(Self::new(kubeconfig.to_owned(), Client::try_from(config)?, None))
    }

    fn new(kubeconfig: PathBuf, client: Client, node: Option<Node>) -> Self {
        Self {
            kubeconfig,
            client,
            runtime: Handle::current(),
            mode: RwLock::default(),
            node: Mutex::new(node),
        }
    }

    /// Installs the mesh as a user does.
    pub(crate) async fn install(&self) -> anyhow::Result<()> {
        let printed = self.weir(&["install", "--timeout=120s"]).await;
        match printed {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(self.evidence().await)),
        }
    }

    /// Runs `weir` against the cluster; what it prints, when it ends well.
    pub(crate) async fn weir(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run_weir(arguments).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "weir {}: {}\n{}{}",
            arguments.join(" "),
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// Runs `weir` against the cluster, however it ends.
    pub(crate) async fn run_weir(&self, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
        let run = Command::new(WEIR)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove(SANDBOX)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ended = timeout(COMMAND, run).await;
        let ended =
            ended.with_context(|| format!("weir {}: not done within {COMMAND:?}", arguments.join(" ")))?;
        ended.context("cannot start weir")
    }

    /// The administrator's client.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Runs something on the side.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Waits until the mesh is in this mode; it stays so while the guard lives.
    pub(crate) async fn mode(&self, wanted: Mode) -> anyhow::Result<RwLockReadGuard<'_, Mode>> {
        let mode = self.mode.read().await;
        if *mode == wanted {
            return Ok(mode);
        }
        drop(mode);
        let mut mode = self.mode.write().await;
        // Another may have been first.
        if *mode != wanted {
            let permissive = wanted == Mode::Permissive;
            let traffic = json!({"traffic": {"enablePermissiveTrafficPolicyMode": permissive}});
            self.configure(&json!({"spec": traffic})).await?;
            *mode = wanted;
        }
        Ok(mode.downgrade())
    }

    /// Nobody else relies on MeshConfig, or on the control plane, while the guard lives. Leave `Mode::Unknown` behind
    /// and [`World::mode`] sets the mode anew.
    pub(crate) async fn alone(&self) -> RwLockWriteGuard<'_, Mode> {
        let mut mode = self.mode.write().await;
        *mode = Mode::Unknown;
        mode
    }

    /// Merges a change into MeshConfig.
    pub(crate) async fn configure(&self, change: &Value) -> anyhow::Result<()> {
        let mesh_config = Target {
            version: "config.openservicemesh.io/v1alpha2",
            kind: "MeshConfig",
            name: "osm-mesh-config",
        };
        patch(&self.client(), mesh_config, SYSTEM, change).await
    }

    /// The state of the control plane and the ends of its logs.
    pub(crate) async fn evidence(&self) -> String {
        let mut text = format!(
            "namespace {SYSTEM}:\n{}",
            pods::evidence(&self.client(), SYSTEM).await
        );
        if let Some(node) = self.node.lock().await.as_mut()
            && let Err(error) = node.check()
        {
            text.push_str(&format!("{error:#}\n"));
        }
        text
    }

    /// The node, when the tests have one of their own.
    pub(crate) async fn has_node(&self) -> bool {
        self.node.lock().await.is_some()
    }

    /// Ends the node.
    pub(crate) async fn end(self: Arc<Self>) {
        if let Some(node) = self.node.lock().await.take() {
            node.stop();
        }
    }
}
