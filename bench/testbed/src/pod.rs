//! The kubelet's part for one pod: init containers in order, native sidecars, app containers, the end.
//!
//! A pod is one task ([`run`]); each long-running container has a task of its own ([`lifecycle`]). What they
//! observe is published in a [`PodStatus`] through a watch channel; the task ends when the pod has.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;

use crate::manifests::Manifests;
use crate::network::PodNetwork;
use crate::options::Options;
use crate::volumes::Volumes;

pub(crate) mod lifecycle;
mod prober;
mod spec;
pub(crate) mod status;

pub use status::{ContainerStatus, Phase, PodStatus};

use lifecycle::{Running, Wish};

/// Everything a pod's tasks share.
pub(crate) struct Context {
    pub(crate) options: Options,
    pub(crate) pod: Pod,
    pub(crate) network: PodNetwork,
    pub(crate) objects: Arc<Manifests>,
    /// The pod's own directory: logs, volumes, container roots.
    pub(crate) dir: PathBuf,
    pub(crate) hosts: PathBuf,
    pub(crate) volumes: Volumes,
    pub(crate) status: watch::Sender<PodStatus>,
}

/// What the owner of a pod tells its task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orders {
    /// End the pod; containers get this long between SIGTERM and SIGKILL.
    pub(crate) end: Option<Duration>,
    /// Kill these containers (SIGKILL) once for each count; they restart by policy.
    pub(crate) kill: BTreeMap<String, u32>,
}

/// Runs the pod to its end.
pub(crate) async fn run(context: Arc<Context>, mut orders: watch::Receiver<Orders>) {
    let refresh = tokio::spawn(refresh_tokens(Arc::clone(&context)));
    let mut running: Vec<Running> = Vec::new();
    let outcome = start(&context, &mut orders, &mut running).await;
    let failed = match outcome {
        Ok(Start::Running) => wait(&context, &mut orders, &mut running).await,
        Ok(Start::Ended) => false,
        Ok(Start::Failed(message)) => {
            context
                .status
                .send_modify(|status| status.message = Some(message));
            true
        }
        Err(error) => {
            let message = format!("{error:#}");
            tracing::error!(pod = %context.status.borrow().name, error = message, "pod cannot start");
            context
                .status
                .send_modify(|status| status.message = Some(message));
            true
        }
    };
    let grace = orders.borrow().end.unwrap_or_else(|| grace(&context.pod));
    end(running, grace).await;
    refresh.abort();
    context.status.send_modify(|status| {
        status.phase = if failed { Phase::Failed } else { Phase::Succeeded };
        for container in status.containers.values_mut() {
            container.ready = false;
            container.running = false;
        }
    });
}

/// Time between SIGTERM and SIGKILL.
pub(crate) fn grace(pod: &Pod) -> Duration {
    let seconds = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

enum Start {
    Running,
    Ended,
    Failed(String),
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Init containers one after the other, then all app containers at once.
async fn start(
    context: &Arc<Context>,
    orders: &mut watch::Receiver<Orders>,
    running: &mut Vec<Running>,
) -> Result<Start> {
    let spec = context.pod.spec.as_ref().context("the pod has no spec")?;
    for container in spec.init_containers.iter().flatten() {
        let sidecar = is_sidecar(container);
        let mut task = Running::start(
            context,
            container,
            sidecar,
            if sidecar {
                "Always"
            } else {
                init_policy(&context.pod)
            },
        )?;
        let done = tokio::select! {
            done = task.wait_for(|state| if sidecar { state.started } else { state.finished }) => done,
            _ = orders.wait_for(|orders| orders.end.is_some()) => {
                running.push(task);
                return Ok(Start::Ended);
            }
        };
        let failed = done.is_none_or(|state| !sidecar && state.exit_code != Some(0));
        running.push(task);
        if failed {
            return Ok(Start::Failed(format!("init container {} failed", container.name)));
        }
    }
    context.status.send_modify(|status| {
        status.initialized = true;
        status.phase = Phase::Running;
    });
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    for container in &spec.containers {
        running.push(Running::start(context, container, false, policy)?);
    }
    Ok(Start::Running)
}

fn init_policy(pod: &Pod) -> &str {
    match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
        Some("Never") => "Never",
        _ => "OnFailure",
    }
}

/// Waits until the pod is to end, or all app containers have finished; whether one of them failed.
async fn wait(context: &Context, orders: &mut watch::Receiver<Orders>, running: &mut [Running]) -> bool {
    let apps: Vec<String> = context
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.containers.iter().map(|container| container.name.clone()))
        .collect();
    let mut status = context.status.subscribe();
    let mut killed: BTreeMap<String, u32> = BTreeMap::new();
    loop {
        tokio::select! {
            changed = orders.changed() => {
                let now = orders.borrow_and_update().clone();
                if changed.is_err() || now.end.is_some() {
                    return false;
                }
                for (name, count) in now.kill {
                    if killed.insert(name.clone(), count) != Some(count) {
                        for task in running.iter().filter(|task| task.name() == name) {
                            task.order(Wish::Kill(count));
                        }
                    }
                }
            }
            done = status.wait_for(|status| apps.iter().all(|name| status.containers.get(name).is_some_and(|c| c.finished))) => {
                return done.map_or(true, |status| apps.iter().any(|name| status.containers.get(name).is_some_and(|c| c.exit_code != Some(0))));
            }
        }
    }
}

/// Ends app containers together, then native sidecars in reverse order of their start.
async fn end(running: Vec<Running>, grace: Duration) {
    let (sidecars, apps): (Vec<_>, Vec<_>) = running.into_iter().partition(Running::is_sidecar);
    let began = tokio::time::Instant::now();
    futures::future::join_all(apps.into_iter().map(|task| task.end(grace))).await;
    for task in sidecars.into_iter().rev() {
        let left = grace.saturating_sub(began.elapsed()).max(Duration::from_secs(2));
        task.end(left).await;
    }
}

async fn refresh_tokens(context: Arc<Context>) {
    while let Some(after) = context.volumes.refresh_after() {
        tokio::time::sleep(after).await;
        if let Err(error) = context
            .volumes
            .refresh(&context.pod, &context.objects, &context.options.mint)
        {
            tracing::warn!(error = format!("{error:#}"), "tokens were not refreshed");
        }
    }
}
