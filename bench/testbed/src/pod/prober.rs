//! The probes of one run of a container: when to probe, and what the results amount to.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Context;
use crate::container::{self, Spec};
use crate::probe::{self, Action, Timing};

/// What the probes report.
#[derive(Debug)]
pub(super) enum Verdict {
    Started,
    Ready(bool, Option<String>),
    /// Startup or liveness gave up.
    Dead(String),
}

/// The tasks that probe one run of a container; dropped with it.
pub(super) struct Probes(JoinHandle<()>);

impl Drop for Probes {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Probes one run of a container.
pub(super) struct Prober {
    pub(super) context: Arc<Context>,
    pub(super) container: Container,
    /// How to run a command beside the container's process.
    pub(super) spec: Spec,
    pub(super) verdicts: mpsc::Sender<Verdict>,
}

impl Prober {
    /// Probes until the result is dropped.
    pub(super) fn start(self) -> Probes {
        Probes(tokio::spawn(self.run()))
    }

    async fn run(self) {
        if let Some(probe) = &self.container.startup_probe {
            if let Err(message) = self.until_ok(probe).await {
                let _gone = self
                    .verdicts
                    .send(Verdict::Dead(format!("startup probe: {message}")))
                    .await;
                return;
            }
            let _gone = self.verdicts.send(Verdict::Started).await;
        }
        tokio::join!(self.readiness(), self.liveness());
    }

    /// Probes until it succeeds; the error of the last failure when its time (period × failures) is over.
    async fn until_ok(&self, probe: &Probe) -> Result<(), String> {
        let timing = Timing::of(probe);
        sleep(timing.delay).await;
        let give_up = Instant::now() + timing.period * timing.failures;
        let mut attempts = 0;
        loop {
            match self.once(probe, timing).await {
                Ok(()) => return Ok(()),
                Err(message) if Instant::now() >= give_up => return Err(message),
                Err(_) => attempts += 1,
            }
            sleep(settling(timing.period, attempts)).await;
        }
    }

    async fn readiness(&self) {
        let Some(probe) = &self.container.readiness_probe else {
            return;
        };
        let timing = Timing::of(probe);
        sleep(timing.delay).await;
        let (mut ready, mut run, mut attempts) = (false, 0u32, 0u32);
        loop {
            let result = self.once(probe, timing).await;
            attempts = attempts.saturating_add(1);
            run = if result.is_ok() == ready { 0 } else { run + 1 };
            if run >= if ready { timing.failures } else { timing.successes } {
                ready = !ready;
                run = 0;
                let message = result.err().map(|message| format!("readiness probe: {message}"));
                let _gone = self.verdicts.send(Verdict::Ready(ready, message)).await;
            } else if let Err(message) = result
                && !ready
            {
                let message = Some(format!("readiness probe: {message}"));
                let _gone = self.verdicts.send(Verdict::Ready(false, message)).await;
            }
            sleep(if ready {
                timing.period
            } else {
                settling(timing.period, attempts)
            })
            .await;
        }
    }

    async fn liveness(&self) {
        let Some(probe) = &self.container.liveness_probe else {
            return;
        };
        let timing = Timing::of(probe);
        sleep(timing.delay.max(Duration::from_millis(200))).await;
        let mut failures = 0;
        loop {
            match self.once(probe, timing).await {
                Ok(()) => failures = 0,
                Err(message) => {
                    failures += 1;
                    if failures >= timing.failures {
                        let _gone = self
                            .verdicts
                            .send(Verdict::Dead(format!("liveness probe: {message}")))
                            .await;
                        return;
                    }
                }
            }
            sleep(timing.period).await;
        }
    }

    async fn once(&self, probe: &Probe, timing: Timing) -> Result<(), String> {
        let ip = self
            .context
            .network
            .ips
            .first()
            .copied()
            .ok_or("the pod has no address")?;
        match Action::of(probe, &self.container, ip)? {
            Action::Exec(argv) => {
                let file = self
                    .context
                    .dir
                    .join(format!("{}.probe.json", self.container.name));
                let spec = Spec {
                    argv,
                    ..self.spec.clone()
                };
                let mut child = container::spawn(&spec, &file, Stdio::null(), Stdio::null())
                    .map_err(|e| e.to_string())?;
                match tokio::time::timeout(timing.timeout, child.wait()).await {
                    Ok(Ok(status)) if status.success() => Ok(()),
                    Ok(Ok(status)) => Err(format!("command ended with {status}")),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("no answer within {} s", timing.timeout.as_secs())),
                }
            }
            network => probe::network(&network, timing.timeout).await,
        }
    }
}

/// The first attempts follow each other quickly, so that a pod is ready as soon as it can be; then the period rules.
fn settling(period: Duration, attempts: u32) -> Duration {
    let quick = Duration::from_millis(50) * 2u32.saturating_pow(attempts.min(8));
    quick.min(period)
}
