//! What is observed of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Phase {
    /// Init containers are running.
    Pending,
    /// App containers have been started.
    Running,
    /// All app containers ended well.
    Succeeded,
    /// A container ended badly and is not restarted, or could not be started.
    Failed,
}

/// What is observed of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ContainerStatus {
    /// Its process runs.
    pub running: bool,
    /// It runs and its startup probe, if any, has succeeded.
    pub started: bool,
    /// Its readiness probe, if any, succeeds.
    pub ready: bool,
    /// It has ended and will not be restarted.
    pub finished: bool,
    /// Number of restarts.
    pub restarts: u32,
    /// Exit code of the last run; 128 + signal when killed.
    pub exit_code: Option<i32>,
    /// Process id in the sandbox, while running.
    pub pid: Option<u32>,
    /// Why it is not ready or was restarted.
    pub message: Option<String>,
    /// An init container, sidecars included.
    pub init: bool,
}

/// What is observed of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
    /// Where it is in its life.
    pub phase: Phase,
    /// All init containers are done, native sidecars started.
    pub initialized: bool,
    /// It has been told to end.
    pub terminating: bool,
    /// Why it failed or cannot start.
    pub message: Option<String>,
    /// Containers by name.
    pub containers: BTreeMap<String, ContainerStatus>,
}

impl PodStatus {
    /// Ready as endpoints and rollouts take it: initialized, every container that runs on is ready, not ending.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.terminating && self.serving()
    }

    /// Ready apart from whether it is ending.
    #[must_use]
    pub fn serving(&self) -> bool {
        self.phase == Phase::Running
            && self.initialized
            && !self.containers.is_empty()
            && self
                .containers
                .values()
                .all(|container| container.ready || (container.init && container.finished))
    }

    /// Whether the pod has ended, well or badly.
    #[must_use]
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}
