//! The mesh on this machine: the testbed's pods, injected by the injector's own code, under a controller that runs
//! as a pod of its own. The demo and the tests of the mesh's promises stand on it.

pub mod envoy;
mod http;
mod injection;
pub mod programs;

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use tokio::{net::TcpStream, sync::broadcast};
use weir_controller::{
    certificates::{BuiltIn, join_token},
    injector::{Envoy, Protocol},
    spec::{Owner, PROXY_CONTAINER},
};
use weir_testbed::{Event, Image, PodStatus, Sandbox, Testbed};

pub use http::Reply;
use programs::Programs;

/// The controller's pod, as the testbed selects it.
const CONTROLLER: &str = "weir-system/weir-controller";
const CONTROLLER_MANIFEST: &str = include_str!("weir-system.yaml");
/// What Envoy's image is called.
const ENVOY_IMAGE: &str = "envoy";
/// Mark by which the redirect knows the sidecar's connections where there is one user only.
const PROXY_MARK: u32 = 1500;
/// Port of the controller's metrics.
const CONTROLLER_METRICS_PORT: u16 = 9091;
/// Port of a sidecar's metrics.
const METRICS_PORT: u16 = 15010;

/// Pods that have a stock Envoy in place of `weir-proxy`.
#[derive(Clone, Debug)]
pub struct Envoys {
    /// The program.
    pub program: PathBuf,
    /// How they talk to the controller.
    pub protocol: Protocol,
    /// Whether the pods of a workload are among them.
    pub beside: fn(&Owner) -> bool,
}

/// What to start.
pub struct Options {
    /// Proof that the process is in the sandbox.
    pub sandbox: Sandbox,
    /// The programs of the mesh and of the application, by image name.
    pub programs: Programs,
    /// Pods with Envoy; `None`: no pod.
    pub envoys: Option<Envoys>,
    /// Directory of the user's manifests; it is watched.
    pub manifests: PathBuf,
    /// Directory for everything the mesh writes.
    pub run: PathBuf,
}

/// A mesh at work. Dropping it ends it.
pub struct LocalMesh {
    testbed: Testbed,
}

impl LocalMesh {
    /// Starts the controller and what the manifests ask for. Pods may not be ready yet.
    ///
    /// # Errors
    /// When the kernel refuses something that pods need, or the run directory cannot be written.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        Self::start_adjusted(options, |_| {}).await
    }

    /// The same; every pod is adjusted after it was injected, before it is created.
    ///
    /// # Errors
    /// As [`LocalMesh::start`].
    pub async fn start_adjusted(options: Options, adjust: fn(&mut Pod)) -> anyhow::Result<Self> {
        let run = &options.run;
        let (state, system, cluster) = (run.join("state"), run.join("system"), run.join("cluster"));
        for directory in [&system, &cluster] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        // Made here so that the trust bundle and the join key are there before the first pod asks for them.
        BuiltIn::open(&state)?;
        let join_key = join_token::load_or_create_key(&state)?;
        let trust_bundle = fs::read_to_string(state.join("ca.crt"))?;
        let manifest = CONTROLLER_MANIFEST
            .replace("${MANIFESTS}", &options.manifests.display().to_string())
            .replace("${CLUSTER}", &cluster.display().to_string())
            .replace("${STATE}", &state.display().to_string());
        fs::write(system.join("weir-system.yaml"), manifest)?;

        let mut testbed =
            weir_testbed::Options::new(options.sandbox, vec![system, options.manifests.clone()], run);
        testbed.images = options
            .programs
            .iter()
            .map(|(name, path)| (name.clone(), Image::new(path)))
            .collect();
        let mut settings = injection::settings(trust_bundle);
        let mut beside: fn(&Owner) -> bool = |_| false;
        if let Some(envoys) = options.envoys {
            let image = Image::new(envoys.program);
            testbed.images.insert(ENVOY_IMAGE.to_owned(), image);
            beside = envoys.beside;
            settings.envoy = Some(Envoy {
                image: ENVOY_IMAGE.to_owned(),
                protocol: envoys.protocol,
                socket_mark: testbed.sandbox.single_uid().then_some(PROXY_MARK),
            });
        }
        let inject = injection::webhook(settings, beside, &options.manifests)?;
        testbed.mutate = Arc::new(move |namespace, pod| {
            let mut pod = inject(namespace, pod)?;
            adjust(&mut pod);
            Ok(pod)
        });
        testbed.mint = injection::token_signer(join_key);
        let testbed = Testbed::start(testbed).await?;
        Ok(Self { testbed })
    }

    /// The pods below.
    pub fn testbed(&self) -> &Testbed {
        &self.testbed
    }

    /// Waits until every pod is ready.
    ///
    /// # Errors
    /// When that takes longer than `limit`; the text says what is not ready.
    pub async fn ready(&self, limit: Duration) -> anyhow::Result<()> {
        self.testbed.wait_ready(limit).await
    }

    /// What happens in the testbed.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.testbed.events()
    }

    /// Connects from inside a pod, as its application would: what it says goes through the redirect.
    ///
    /// # Errors
    /// When the connection is refused.
    pub async fn dial(&self, pod: &str, to: SocketAddr) -> anyhow::Result<TcpStream> {
        let connect = move || {
            let stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            std::io::Result::Ok(stream)
        };
        let stream = self.testbed.inside(pod, connect).await?;
        let stream = stream.with_context(|| format!("cannot connect from {pod} to {to}"))?;
        Ok(TcpStream::from_std(stream)?)
    }

    /// Asks a pod's own application, from inside the pod and past the sidecar.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn get_local(&self, pod: &str, port: u16, path: &str) -> anyhow::Result<Reply> {
        let stream = self.dial(pod, SocketAddr::from(([127, 0, 0, 1], port))).await?;
        http::get(stream, path).await
    }

    /// What a sidecar shows to Prometheus, asked for from the node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self, pod: &PodStatus) -> anyhow::Result<String> {
        let ip = pod.ips.first().context("the pod has no address yet")?;
        let stream = TcpStream::connect((*ip, METRICS_PORT)).await?;
        Ok(http::get(stream, "/stats/prometheus").await?.body)
    }

    /// What the controller shows to Prometheus.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn controller_metrics(&self) -> anyhow::Result<String> {
        let pod = self.testbed.find(CONTROLLER)?;
        let ip = pod.ips.first().context("the controller has no address yet")?;
        let stream = TcpStream::connect((*ip, CONTROLLER_METRICS_PORT)).await?;
        Ok(http::get(stream, "/metrics").await?.body)
    }

    /// The pods with a sidecar.
    pub fn meshed(&self) -> Vec<PodStatus> {
        let pods = self.testbed.pods().borrow().clone();
        let meshed = |pod: &PodStatus| pod.containers.contains_key(PROXY_CONTAINER);
        pods.into_iter()
            .filter(|pod| meshed(pod) && !pod.ended())
            .collect()
    }

    /// Kills the controller and waits until a new one is ready.
    ///
    /// # Errors
    /// When none becomes ready within `limit`.
    pub async fn restart_controller(&self, limit: Duration) -> anyhow::Result<()> {
        let restarts = |pods: &[PodStatus]| {
            let controller = pods.iter().find(|pod| pod.namespace == "weir-system");
            controller.and_then(|pod| Some((pod.ready(), pod.containers.get("weir-controller")?.restarts)))
        };
        let before = restarts(&self.testbed.pods().borrow()).map_or(0, |(_, restarts)| restarts);
        self.testbed.kill_container(CONTROLLER, "weir-controller").await?;
        let again = |pods: &[PodStatus]| restarts(pods).is_some_and(|(ready, now)| ready && now > before);
        self.testbed.wait_for(limit, again).await?;
        Ok(())
    }

    /// The controller's log so far.
    pub fn controller_log(&self) -> String {
        self.testbed
            .logs(CONTROLLER, "weir-controller")
            .unwrap_or_default()
    }

    /// Ends every pod in order.
    ///
    /// # Errors
    /// When the testbed has ended already.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.testbed.stop().await
    }
}
