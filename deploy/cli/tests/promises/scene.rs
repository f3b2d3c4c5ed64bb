//! A test's own part of the mesh: a namespace, its pods, and the servers in them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use http_body_util::Empty;
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::Service;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::Instant,
};
use weir_testbed::PodStatus;

use crate::{
    client::{self, Http1, Reply},
    manifest,
    world::{World, tail, within},
};

/// How long pods may take to come up, and changes to take effect. Far more than they need.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one exchange may take.
pub(crate) const EXCHANGE: Duration = Duration::from_secs(15);
/// Pause between two looks at a condition that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// A namespace at work. Dropping it removes it.
pub(crate) struct Scene {
    world: Arc<World>,
    namespace: String,
    files: Mutex<BTreeSet<String>>,
    servers: Mutex<JoinSet<()>>,
}

impl Scene {
    /// Makes a namespace of the mesh with these manifests in it, and waits until its pods are ready.
    pub(crate) async fn open(world: Arc<World>, namespace: &str, parts: &[String]) -> anyhow::Result<Self> {
        let scene = Self {
            world,
            namespace: namespace.to_owned(),
            files: Mutex::default(),
            servers: Mutex::default(),
        };
        let mut all = vec![manifest::namespace()];
        all.extend_from_slice(parts);
        scene.apply("base", &all)?;
        scene.ready().await?;
        Ok(scene)
    }

    /// Puts manifests in place as one file.
    pub(crate) fn apply(&self, name: &str, parts: &[String]) -> anyhow::Result<()> {
        let file = format!("{}-{name}", self.namespace);
        let text = parts.concat().replace("$NS", &self.namespace);
        self.world
            .write(&file, &text)
            .with_context(|| format!("cannot write {file}"))?;
        self.files().insert(file);
        Ok(())
    }

    /// Takes away what was put in place under this name.
    pub(crate) fn remove(&self, name: &str) -> anyhow::Result<()> {
        let file = format!("{}-{name}", self.namespace);
        self.files().remove(&file);
        self.world
            .remove(&file)
            .with_context(|| format!("cannot remove {file}"))
    }

    fn files(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until as many pods as the manifests have are ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let files: Vec<String> = self.files().iter().cloned().collect();
        let text: Vec<String> = files
            .iter()
            .map(|file| self.world.read(file))
            .collect::<Result<_, _>>()?;
        let wanted = text.concat().matches("\nkind: Pod\n").count();
        let ready = |pods: &[PodStatus]| {
            pods.iter()
                .filter(|pod| pod.namespace == self.namespace && pod.ready() && !pod.terminating)
                .count()
                == wanted
        };
        let waited = self.world.mesh().testbed().wait_for(PATIENCE, ready).await;
        waited.with_context(|| {
            format!(
                "the pods of {} are not ready\n{}",
                self.namespace,
                self.evidence()
            )
        })?;
        Ok(())
    }

    /// The testbed's name of a pod.
    pub(crate) fn pod(&self, name: &str) -> String {
        format!("{}/{name}", self.namespace)
    }

    /// A pod's addresses: IPv4 first.
    pub(crate) fn pod_ips(&self, pod: &str) -> anyhow::Result<Vec<IpAddr>> {
        Ok(self.world.mesh().testbed().find(&self.pod(pod))?.ips)
    }

    /// A Service's ClusterIPs: IPv4 first.
    pub(crate) fn cluster_ips(&self, service: &str) -> anyhow::Result<Vec<IpAddr>> {
        let file = format!("service_{}_{service}.yaml", self.namespace);
        let text = self.world.observed(&file).with_context(|| format!("no {file}"))?;
        let service: Service = serde_saphyr::from_str(&text)?;
        let ips = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        Ok(ips.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?)
    }

    /// A Service's IPv4 ClusterIP and a port.
    pub(crate) fn service(&self, service: &str, port: u16) -> anyhow::Result<SocketAddr> {
        let ips = self.cluster_ips(service)?;
        Ok(SocketAddr::new(
            *ips.first().context("a Service without ClusterIP")?,
            port,
        ))
    }

    /// Connects from inside a pod.
    pub(crate) async fn dial(&self, pod: &str, to: SocketAddr) -> anyhow::Result<TcpStream> {
        let pod = self.pod(pod);
        let dialled = self.world.mesh().dial(&pod, to);
        within(EXCHANGE, "to connect", dialled).await?
    }

    /// Listens inside a pod, in both families.
    pub(crate) async fn listen(&self, pod: &str, port: u16) -> anyhow::Result<TcpListener> {
        let bind = move || {
            let listener = std::net::TcpListener::bind(("::", port))?;
            listener.set_nonblocking(true)?;
            std::io::Result::Ok(listener)
        };
        let listener = self.world.mesh().testbed().inside(&self.pod(pod), bind).await?;
        let listener = listener.with_context(|| format!("cannot listen on port {port} of {pod}"))?;
        Ok(TcpListener::from_std(listener)?)
    }

    /// A UDP socket inside a pod, in both families.
    pub(crate) async fn udp(&self, pod: &str, port: u16) -> anyhow::Result<UdpSocket> {
        let bind = move || {
            let socket = std::net::UdpSocket::bind(("::", port))?;
            socket.set_nonblocking(true)?;
            std::io::Result::Ok(socket)
        };
        let socket = self.world.mesh().testbed().inside(&self.pod(pod), bind).await??;
        Ok(UdpSocket::from_std(socket)?)
    }

    /// Runs a server for as long as the scene lasts.
    pub(crate) fn serve(&self, server: impl Future<Output = ()> + Send + 'static) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.spawn(server);
    }

    /// Asks for a path from inside a pod.
    pub(crate) async fn get(&self, pod: &str, to: SocketAddr, path: &str) -> anyhow::Result<Reply> {
        let stream = self.dial(pod, to).await?;
        client::get(stream, &to.to_string(), path).await
    }

    /// A connection from inside a pod over which a request was answered: its service stays in use.
    pub(crate) async fn speak(&self, pod: &str, to: SocketAddr) -> anyhow::Result<Http1<Empty<Bytes>>> {
        let mut connection = Http1::new(self.dial(pod, to).await?).await?;
        connection.ask(&to.to_string()).await?;
        Ok(connection)
    }

    /// Runs a program in a pod's container and returns what it prints.
    pub(crate) async fn exec(&self, pod: &str, argv: &[&str]) -> anyhow::Result<String> {
        let pod = self.pod(pod);
        let run = self.world.mesh().testbed().exec(&pod, "app", argv);
        let output = within(PATIENCE, "to run a program", run).await??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(anyhow!(
                "{}: {}{}",
                output.status,
                text(&output.stdout),
                text(&output.stderr)
            )),
        }
    }

    /// Tries until it succeeds. What is tried must be over soon, one way or the other.
    pub(crate) async fn eventually<T, F>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let begun = Instant::now();
        loop {
            let error = match within(EXCHANGE, "an attempt", attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) | Err(error) => error,
            };
            if begun.elapsed() > PATIENCE {
                return Err(error.context(format!("{what}: not so within {PATIENCE:?}\n{}", self.evidence())));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What the sidecars and the controller logged.
    pub(crate) fn evidence(&self) -> String {
        let testbed = self.world.mesh().testbed();
        let mut evidence = self.world.controller_log();
        for pod in testbed
            .pods()
            .borrow()
            .iter()
            .filter(|pod| pod.namespace == self.namespace)
        {
            for container in pod.containers.keys() {
                let log = testbed.logs(&self.pod(&pod.name), container).unwrap_or_default();
                if !log.is_empty() {
                    evidence.push_str(&format!("\n{} {container}:\n{}", pod.name, tail(&log)));
                }
            }
        }
        evidence
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for file in std::mem::take(&mut *self.files()) {
            let _gone_already = self.world.remove(&file);
        }
    }
}
