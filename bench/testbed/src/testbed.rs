//! The testbed as its callers see it.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::container::{self, Spec};
use crate::manifests::ManifestError;
use crate::options::Options;
use crate::pod::PodStatus;
use crate::{network, pod};

mod node;

use node::{Command, Node};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A manifest is wrong; the last good state stays in force.
    Manifest(ManifestError),
    /// A pod could not be created.
    Rejected {
        /// Namespace and name of the pod's owner.
        owner: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A pod was created.
    Created(String),
    /// A pod became ready.
    Ready(String),
    /// A pod stopped being ready.
    NotReady(String),
    /// A pod is gone.
    Gone(String),
    /// The node failed to put something in force.
    Failure(String),
}

/// A running testbed. [`Testbed::stop`] ends it in order; dropping it ends it at once.
pub struct Testbed {
    commands: mpsc::Sender<Command>,
    pods: watch::Receiver<Vec<PodStatus>>,
    events: broadcast::Sender<Event>,
    /// Events of the start, for the first subscriber.
    first: std::sync::Mutex<Option<broadcast::Receiver<Event>>>,
    run_dir: PathBuf,
    task: JoinHandle<()>,
}

impl Testbed {
    /// Builds the network, reads the manifests and starts what they ask for.
    ///
    /// # Errors
    /// When the network cannot be built. Errors in manifests are events.
    pub async fn start(options: Options) -> Result<Self> {
        let (commands, inbox) = mpsc::channel(16);
        let (snapshot, pods) = watch::channel(Vec::new());
        let (events, first) = broadcast::channel(1024);
        let run_dir = options.run_dir.clone();
        let node = Node::start(options, snapshot, events.clone()).await?;
        let task = tokio::spawn(node.run(inbox));
        Ok(Self {
            commands,
            pods,
            events,
            first: std::sync::Mutex::new(Some(first)),
            run_dir,
            task,
        })
    }

    /// What happens from now on; the first caller also gets what happened since the start.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        let first = self.first.lock().ok().and_then(|mut first| first.take());
        first.unwrap_or_else(|| self.events.subscribe())
    }

    /// Snapshots of all pods, a new one at each change.
    pub fn pods(&self) -> watch::Receiver<Vec<PodStatus>> {
        self.pods.clone()
    }

    /// Directory with the observed objects.
    #[must_use]
    pub fn cluster_dir(&self) -> PathBuf {
        self.run_dir.join("cluster")
    }

    /// Waits until there are pods and all of them are ready or have completed.
    ///
    /// # Errors
    /// After `timeout`; the text lists the pods that are not ready, and why.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<()> {
        self.wait_for(timeout, |pods| {
            !pods.is_empty()
                && pods
                    .iter()
                    .all(|pod| pod.ready() || pod.phase == pod::Phase::Succeeded)
        })
        .await
        .map(drop)
    }

    /// Waits until the pods satisfy `wanted`.
    ///
    /// # Errors
    /// After `timeout`; the text lists the pods that are not ready, and why.
    pub async fn wait_for(
        &self,
        timeout: Duration,
        wanted: impl Fn(&[PodStatus]) -> bool,
    ) -> Result<Vec<PodStatus>> {
        let mut pods = self.pods.clone();
        let waited = tokio::time::timeout(timeout, pods.wait_for(|pods| wanted(pods))).await;
        match waited {
            Ok(Ok(pods)) => Ok(pods.clone()),
            Ok(Err(_)) => bail!("the testbed has stopped"),
            Err(_) => bail!(
                "not so within {} s: {}",
                timeout.as_secs(),
                describe(&self.pods.borrow())
            ),
        }
    }

    /// The pod called `selector`: `namespace/name`, or the first ready one whose name starts with it and a dash.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, selector: &str) -> Result<PodStatus> {
        let (namespace, name) = selector.split_once('/').unwrap_or(("default", selector));
        let pods = self.pods.borrow();
        let mut matching: Vec<&PodStatus> = pods
            .iter()
            .filter(|pod| pod.namespace == namespace)
            .filter(|pod| {
                pod.name == name
                    || pod
                        .name
                        .strip_prefix(name)
                        .is_some_and(|rest| rest.starts_with('-'))
            })
            .filter(|pod| !pod.ended())
            .collect();
        matching.sort_by_key(|pod| (pod.name != name, !pod.ready(), pod.terminating));
        matching
            .first()
            .map(|pod| (*pod).clone())
            .ok_or_else(|| anyhow!("there is no pod {selector}: {}", describe(&pods)))
    }

    /// Runs `argv` inside a container (empty: the pod's first running one), with its environment and user.
    ///
    /// # Errors
    /// When there is no such running container or the process cannot be started.
    pub async fn exec(&self, selector: &str, container: &str, argv: &[&str]) -> Result<Output> {
        let pod = self.find(selector)?;
        let (name, status) = pod
            .containers
            .iter()
            .filter(|(_, status)| status.running)
            .find(|(name, status)| {
                if container.is_empty() {
                    !status.init
                } else {
                    *name == container
                }
            })
            .ok_or_else(|| anyhow!("pod {selector} has no running container {container:?}"))?;
        let dir = self.pod_dir(&pod.uid);
        let file = dir.join(format!("{name}.spec.json"));
        let text = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let spec: Spec = serde_json::from_slice(&text)?;
        let spec = Spec {
            join: status.pid,
            argv: argv.iter().map(ToString::to_string).collect(),
            ..spec
        };
        let scratch = tempfile::Builder::new()
            .prefix("exec")
            .suffix(".json")
            .tempfile_in(&dir)?;
        let (out, err) = (std::process::Stdio::piped(), std::process::Stdio::piped());
        let child = container::spawn(&spec, scratch.path(), out, err)?;
        child.wait_with_output().await.context("wait for the process")
    }

    /// Runs `work` on a thread inside the pod's network namespace; sockets made there stay there.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn inside<T: Send + 'static>(
        &self,
        selector: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let netns = self.netns(selector)?;
        tokio::task::spawn_blocking(move || network::inside(&netns, work)).await?
    }

    /// Path of a pod's network namespace.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn netns(&self, selector: &str) -> Result<PathBuf> {
        Ok(self.run_dir.join("netns").join(self.find(selector)?.uid))
    }

    /// What a container has written to stdout and stderr so far.
    ///
    /// # Errors
    /// When there is no such pod, or the container has not been started.
    pub fn logs(&self, selector: &str, container: &str) -> Result<String> {
        let path = pod::lifecycle::log_path(&self.pod_dir(&self.find(selector)?.uid), container);
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.run_dir.join("pods").join(uid)
    }

    /// Starts to record what crosses the bridge between pods, up to `limit` bytes of TCP payload.
    ///
    /// # Errors
    /// When the kernel has no packet sockets (CONFIG_PACKET).
    pub fn capture(&self, limit: usize) -> Result<crate::Capture> {
        crate::Capture::start(limit)
    }

    /// Kills a container's processes with SIGKILL; it restarts by its pod's policy.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn kill_container(&self, selector: &str, container: &str) -> Result<()> {
        let pod = self.find(selector)?;
        self.send(|done| Command::Kill {
            key: (pod.namespace, pod.name),
            container: container.to_owned(),
            done,
        })
        .await
    }

    /// Deletes a pod, as `kubectl delete pod`; its controller replaces it.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn delete_pod(&self, selector: &str) -> Result<()> {
        let pod = self.find(selector)?;
        self.send(|done| Command::Delete {
            key: (pod.namespace, pod.name),
            done,
        })
        .await
    }

    /// Ends all pods in order and waits until they are gone.
    ///
    /// # Errors
    /// When the testbed has stopped already.
    pub async fn stop(self) -> Result<()> {
        self.send(|done| Command::Stop { done }).await
    }

    async fn send(&self, command: impl FnOnce(oneshot::Sender<Result<()>>) -> Command) -> Result<()> {
        let (done, answer) = oneshot::channel();
        self.commands
            .send(command(done))
            .await
            .map_err(|_| anyhow!("the testbed has stopped"))?;
        answer.await.map_err(|_| anyhow!("the testbed has stopped"))?
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The pods that are not ready, each with the reason.
fn describe(pods: &[PodStatus]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for pod in pods.iter().filter(|pod| !pod.ready()) {
        let mut line = format!("{}/{} {:?}", pod.namespace, pod.name, pod.phase);
        if let Some(message) = &pod.message {
            line.push_str(&format!(" ({message})"));
        }
        for (name, container) in pod.containers.iter().filter(|(_, container)| !container.ready) {
            line.push_str(&format!("; {name}: "));
            match (&container.message, container.exit_code) {
                (Some(message), _) => line.push_str(message),
                (None, Some(code)) => line.push_str(&format!("exit code {code}")),
                (None, None) => line.push_str("not ready"),
            }
        }
        lines.push(line);
    }
    if lines.is_empty() {
        format!("{} pods, all ready", pods.len())
    } else {
        lines.join("; ")
    }
}
