//! A whole Kubernetes of one node: etcd, the API server, controllers, scheduler, containerd, kubelet, kube-proxy and a
//! DNS server, in a sandbox that keeps the machine's root ([`Sandbox::enter_as_root`]).
//!
//! All that it writes is in memory and ends with the sandbox, however that ends; only empty control groups stay
//! behind a kill, and the next start removes them. No packet leaves the sandbox.

mod cgroups;
mod control_plane;
mod machine;
mod settings;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::{Api, Client, Config, config::Kubeconfig};
use serde_json::Value;
use tokio::{process::Command, time::sleep};
use weir_images::Image;
use weir_testbed::Sandbox;

use crate::{dns::Dns, pki::Pki, process::Process};
use cgroups::Cgroups;

/// The node's name.
pub const NODE_NAME: &str = "weir-node";
/// The node's address, and that of the cluster's DNS server.
pub const NODE_IP: &str = "10.99.0.1";
/// The bridge that pods are on.
pub const BRIDGE: &str = "weir0";
const API_PORT: u16 = 6443;
const POD_CIDR: &str = "10.244.0.0/24";
const SERVICE_CIDR: &str = "10.96.0.0/16";
const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The image of the process that holds a pod's namespaces.
const PAUSE: &str = "weir.test/pause:1";
/// How long a program of the cluster may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A running node. [`Node::stop`] or dropping it ends everything on it.
pub struct Node {
    kubeconfig: PathBuf,
    client: Client,
    scratch: PathBuf,
    _dns: Dns,
    processes: Vec<Process>,
    cgroups: Cgroups,
}

impl Node {
    /// Starts a node with these images on it; `programs` is the directory of the Kubernetes programs. The rest is
    /// found on PATH: etcd, containerd, runc, ip, iptables, conntrack; network plugins in /usr/lib/cni.
    ///
    /// # Errors
    /// When a program is missing, ends, or does not get ready in time; the text has the end of its log.
    pub async fn start(sandbox: &Sandbox, programs: &Path, images: &[Image]) -> anyhow::Result<Self> {
        let scratch = sandbox.scratch().join("node");
        fs::create_dir_all(&scratch)?;
        let mut starting = Starting {
            pki: Pki::create(&scratch.join("pki"))?,
            cgroups: Cgroups::create()?,
            scratch,
            programs: programs.to_owned(),
            processes: Vec::new(),
        };
        machine::prepare(&starting.scratch)?;
        let url = format!("https://{NODE_IP}:{API_PORT}");
        let (administrator, client) = starting.administrator(&url).await?;
        starting.foundation()?;
        starting.wait_for("the API server", || ready(&client)).await?;
        starting.controllers(&administrator)?;
        starting.images(images).await?;
        starting.kubelet(&url)?;
        let dns = Dns::start(client.clone(), SocketAddr::new(NODE_IP.parse()?, 53)).await?;
        starting.wait_for("the node", || node_ready(&client)).await?;
        starting
            .wait_for("ServiceAccounts", || accounts_made(&client))
            .await?;
        Ok(Self {
            kubeconfig: administrator,
            client,
            scratch: starting.scratch,
            _dns: dns,
            processes: starting.processes,
            cgroups: starting.cgroups,
        })
    }

    /// The administrator's kubeconfig; good inside the sandbox only.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client for the administrator.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the programs of the cluster log, one file each.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.scratch.join("logs")
    }

    /// Puts an image on the node.
    ///
    /// # Errors
    /// When it cannot be packed or imported.
    pub async fn import(&self, image: &Image) -> anyhow::Result<()> {
        import(&self.scratch, image).await
    }

    /// Fails when a program of the cluster has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// Ends everything on the node and removes its control groups.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.cgroups.end();
        self.processes.clear();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// A node on its way.
struct Starting {
    scratch: PathBuf,
    programs: PathBuf,
    pki: Pki,
    processes: Vec<Process>,
    cgroups: Cgroups,
}

impl Starting {
    async fn administrator(&self, url: &str) -> anyhow::Result<(PathBuf, Client)> {
        let pair = self
            .pki
            .client("administrator", "administrator", Some("system:masters"))?;
        let path = self.pki.kubeconfig("administrator", url, &pair)?;
        let kubeconfig = Kubeconfig::read_from(&path)?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
        Ok((path, Client::try_from(config)?))
    }

    /// Starts what does not need the API server, and the API server.
    fn foundation(&mut self) -> anyhow::Result<()> {
        let write = |name: &str, text: &str| {
            let path = self.scratch.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(path)
        };
        for directory in ["cni", "logs", "pod-logs"] {
            fs::create_dir_all(self.scratch.join(directory))?;
        }
        write("cni/10-weir.conflist", &settings::cni().to_string())?;
        write("resolv.conf", "")?;
        let containerd = write("containerd.toml", &settings::containerd(&self.scratch))?;
        let etcd = self.scratch.join("etcd");
        self.run("etcd", control_plane::etcd(&etcd))?;
        let flags = control_plane::api_server(&self.pki)?;
        self.run("kube-apiserver", flags)?;
        self.run("containerd", vec![format!("--config={}", containerd.display())])
    }

    fn controllers(&mut self, administrator: &Path) -> anyhow::Result<()> {
        let flags = control_plane::controller_manager(&self.pki, administrator);
        self.run("kube-controller-manager", flags)?;
        self.run("kube-scheduler", control_plane::scheduler(administrator))
    }

    /// Starts the kubelet, as the node, and kube-proxy.
    fn kubelet(&mut self, url: &str) -> anyhow::Result<()> {
        let user = format!("system:node:{NODE_NAME}");
        let pair = self.pki.client("kubelet", &user, Some("system:nodes"))?;
        let kubeconfig = self.pki.kubeconfig("kubelet", url, &pair)?;
        let (root, group) = (&self.pki.root().certificate, self.cgroups.path());
        let config = self.config("kubelet", &settings::kubelet(&self.scratch, root, &group))?;
        let under = |name: &str| self.scratch.join(name).display().to_string();
        let flags = vec![
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--root-dir={}", under("kubelet")),
            format!("--cert-dir={}", under("kubelet-pki")),
            format!("--hostname-override={NODE_NAME}"),
            format!("--node-ip={NODE_IP}"),
        ];
        self.run("kubelet", flags)?;
        let pair = self.pki.client("kube-proxy", "system:kube-proxy", None)?;
        let kubeconfig = self.pki.kubeconfig("kube-proxy", url, &pair)?;
        let config = self.config("kube-proxy", &settings::kube_proxy(&kubeconfig))?;
        self.run("kube-proxy", vec![format!("--config={}", config.display())])
    }

    fn config(&self, program: &str, value: &Value) -> anyhow::Result<PathBuf> {
        let path = self.scratch.join(format!("{program}.json"));
        fs::write(&path, value.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Starts a program: of Kubernetes, else from PATH.
    fn run(&mut self, name: &str, flags: Vec<String>) -> anyhow::Result<()> {
        let own = self.programs.join(name);
        let program = if own.exists() { own } else { PathBuf::from(name) };
        let log = self.scratch.join("logs").join(format!("{name}.log"));
        self.processes.push(Process::start(&program, flags, &log)?);
        Ok(())
    }

    /// Puts the images on the node, and the one it needs itself.
    async fn images(&mut self, images: &[Image]) -> anyhow::Result<()> {
        let socket = Path::new(CONTAINERD);
        self.wait_for("containerd", || async {
            socket.exists().then_some(()).context("it does not listen")
        })
        .await?;
        let pause = Image::new(PAUSE).program(Path::new("/bin/sleep"), "/bin/sleep")?;
        import(&self.scratch, &pause.entrypoint(&["/bin/sleep", "infinity"])).await?;
        for image in images {
            import(&self.scratch, image).await?;
        }
        Ok(())
    }

    /// Waits for something, and fails early when a program has ended.
    async fn wait_for<F>(&mut self, what: &str, mut ask: impl FnMut() -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let begun = Instant::now();
        loop {
            let Err(error) = ask().await else { return Ok(()) };
            self.processes.iter_mut().try_for_each(Process::check)?;
            if begun.elapsed() > PATIENCE {
                let tails = self
                    .processes
                    .iter()
                    .map(|process| format!("{}:\n{}", process.name(), process.tail()));
                let tails = tails.collect::<Vec<_>>().join("\n\n");
                bail!("{what} is not ready within {PATIENCE:?}: {error:#}\n{tails}");
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

async fn ready(client: &Client) -> anyhow::Result<()> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    client.request_text(request).await?;
    Ok(())
}

async fn node_ready(client: &Client) -> anyhow::Result<()> {
    let node = Api::<NodeObject>::all(client.clone()).get(NODE_NAME).await?;
    let conditions = node
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    let ready = ready.context("it has not reported yet")?;
    ensure!(
        ready.status == "True",
        "{}",
        ready.message.as_deref().unwrap_or_default()
    );
    Ok(())
}

/// Pods made before that are refused.
async fn accounts_made(client: &Client) -> anyhow::Result<()> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    accounts.get("default").await?;
    Ok(())
}

async fn import(scratch: &Path, image: &Image) -> anyhow::Result<()> {
    let archive = scratch.join(format!("{}.tar", image.reference().replace(['/', ':'], "-")));
    image.save(&archive)?;
    let imported = Command::new("ctr")
        .args([
            "--address",
            CONTAINERD,
            "--namespace",
            "k8s.io",
            "images",
            "import",
        ])
        .arg(&archive)
        .output()
        .await;
    let _in_memory_only = fs::remove_file(&archive);
    let output = imported.context("cannot start ctr (package containerd)")?;
    ensure!(
        output.status.success(),
        "ctr cannot import {}: {}",
        image.reference(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
