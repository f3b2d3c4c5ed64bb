//! One container's life: start, probes, restarts with back-off, the end.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Container, Probe};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::{ContainerStatus, Context, spec};
use crate::container::{self, Spec};
use crate::probe::{self, Action, Timing};

/// Longest wait before a restart.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A run this long makes the next restart wait as if it were the first.
const SETTLED: Duration = Duration::from_secs(60);

/// What is wanted of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Run,
    /// SIGKILL now; the number tells one order from the next.
    Kill(u32),
    /// SIGTERM, and SIGKILL after this time; no restart.
    End(Duration),
}

/// A container's task.
pub(crate) struct Running {
    name: String,
    sidecar: bool,
    wish: watch::Sender<Wish>,
    status: watch::Receiver<super::PodStatus>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts the task of `container`.
    pub(super) fn start(
        context: &Arc<Context>,
        container: &Container,
        sidecar: bool,
        policy: &str,
    ) -> Result<Self> {
        let spec =
            spec::resolve(context, container).with_context(|| format!("container {}", container.name))?;
        let init = context
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .any(|other| other.name == container.name);
        context.status.send_modify(|status| {
            status.containers.entry(container.name.clone()).or_default().init = init;
        });
        let (wish, wishes) = watch::channel(Wish::Run);
        let life = Life {
            context: Arc::clone(context),
            container: container.clone(),
            spec,
            policy: policy.to_owned(),
            wishes,
        };
        Ok(Self {
            name: container.name.clone(),
            sidecar,
            wish,
            status: context.status.subscribe(),
            task: tokio::spawn(life.run()),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_sidecar(&self) -> bool {
        self.sidecar
    }

    pub(super) fn order(&self, wish: Wish) {
        self.wish.send_replace(wish);
    }

    /// Waits until the container's status satisfies `wanted`; `None` when the pod is gone.
    pub(super) async fn wait_for(
        &mut self,
        wanted: impl Fn(&ContainerStatus) -> bool,
    ) -> Option<ContainerStatus> {
        let name = self.name.clone();
        let status = self
            .status
            .wait_for(|status| status.containers.get(&name).is_some_and(&wanted))
            .await
            .ok()?;
        status.containers.get(&name).cloned()
    }

    /// Ends the container and waits until it is gone.
    pub(super) async fn end(self, grace: Duration) {
        self.order(Wish::End(grace));
        let _ended = self.task.await;
    }
}

struct Life {
    context: Arc<Context>,
    container: Container,
    spec: Spec,
    policy: String,
    wishes: watch::Receiver<Wish>,
}

/// What a probe's task reports.
#[derive(Debug)]
enum Verdict {
    Started,
    Ready(bool, Option<String>),
    /// Startup or liveness gave up.
    Dead(String),
}

impl Life {
    async fn run(mut self) {
        let mut backoff = Duration::from_millis(500);
        loop {
            let began = Instant::now();
            let code = self.once().await;
            let again = !self.ending()
                && match self.policy.as_str() {
                    "Always" => true,
                    "OnFailure" => code != 0,
                    _ => false,
                };
            self.update(|status| {
                *status = ContainerStatus {
                    exit_code: Some(code),
                    finished: !again,
                    restarts: status.restarts + u32::from(again),
                    message: status.message.take(),
                    init: status.init,
                    ..ContainerStatus::default()
                };
            });
            if !again {
                return;
            }
            if began.elapsed() > SETTLED {
                backoff = Duration::from_millis(500);
            }
            let ended = tokio::select! {
                () = sleep(backoff) => false,
                _ = self.wishes.wait_for(|wish| matches!(wish, Wish::End(_))) => true,
            };
            if ended {
                self.update(|status| status.finished = true);
                return;
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    fn ending(&self) -> bool {
        matches!(*self.wishes.borrow(), Wish::End(_))
    }

    fn update(&self, change: impl FnOnce(&mut ContainerStatus)) {
        self.context.status.send_modify(|status| {
            change(status.containers.entry(self.container.name.clone()).or_default());
        });
    }

    /// One run of the process; its exit code.
    async fn once(&mut self) -> i32 {
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => {
                self.update(|status| status.message = Some(format!("{error:#}")));
                return 128;
            }
        };
        let pid = child.id();
        let startup = self.container.startup_probe.is_some();
        let readiness = self.container.readiness_probe.is_some();
        self.update(|status| {
            status.running = true;
            status.pid = pid;
            status.started = !startup;
            status.ready = !startup && !readiness;
        });
        let (verdicts, mut inbox) = mpsc::channel(4);
        let probes = Probes::start(self, pid, verdicts);
        let mut deadline: Option<Instant> = None;
        let mut wish = *self.wishes.borrow_and_update();
        if let Wish::End(grace) = wish {
            deadline = Some(terminate(pid, grace));
        }
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                Ok(()) = self.wishes.changed() => {
                    let now = *self.wishes.borrow_and_update();
                    match now {
                        Wish::End(grace) => deadline = Some(terminate(pid, grace)),
                        Wish::Kill(_) if now != wish => signal(pid, Signal::SIGKILL),
                        _ => {}
                    }
                    wish = now;
                }
                Some(verdict) = inbox.recv() => match verdict {
                    Verdict::Started => self.update(|status| {
                        status.started = true;
                        status.ready = !readiness;
                    }),
                    Verdict::Ready(ready, message) => self.update(|status| {
                        status.ready = ready && status.started;
                        status.message = message;
                    }),
                    Verdict::Dead(message) if deadline.is_none() => {
                        self.update(|status| status.message = Some(message));
                        deadline = Some(terminate(pid, super::grace(&self.context.pod)));
                    }
                    Verdict::Dead(_) => {}
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    signal(pid, Signal::SIGKILL);
                    deadline = None;
                }
            }
        };
        drop(probes);
        signal(pid, Signal::SIGKILL);
        status.map_or(128, code)
    }

    fn spawn(&self) -> Result<tokio::process::Child> {
        let log = log_path(&self.context.dir, &self.container.name);
        let open = || -> std::io::Result<File> { OpenOptions::new().create(true).append(true).open(&log) };
        let out = open().with_context(|| format!("open {}", log.display()))?;
        let err = out.try_clone()?;
        let file = self
            .context
            .dir
            .join(format!("{}.spec.json", self.container.name));
        container::spawn(&self.spec, &file, Stdio::from(out), Stdio::from(err))
            .context("start the container's process")
    }
}

/// Where a container's output goes.
pub(crate) fn log_path(dir: &std::path::Path, container: &str) -> PathBuf {
    dir.join(format!("{container}.log"))
}

/// SIGTERM now; returns when SIGKILL is due.
fn terminate(pid: Option<u32>, grace: Duration) -> Instant {
    signal(pid, Signal::SIGTERM);
    Instant::now() + grace
}

/// Signals the container's process group.
fn signal(pid: Option<u32>, signal: Signal) {
    if let Some(pid) = pid {
        let _gone_already = killpg(Pid::from_raw(pid.cast_signed()), signal);
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(128)
}

/// The tasks that probe one run of a container; dropped with it.
struct Probes(JoinHandle<()>);

impl Drop for Probes {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Probes {
    fn start(life: &Life, pid: Option<u32>, verdicts: mpsc::Sender<Verdict>) -> Self {
        let prober = Prober {
            context: Arc::clone(&life.context),
            container: life.container.clone(),
            spec: Spec {
                join: pid,
                ..life.spec.clone()
            },
            verdicts,
        };
        Self(tokio::spawn(prober.run()))
    }
}

struct Prober {
    context: Arc<Context>,
    container: Container,
    spec: Spec,
    verdicts: mpsc::Sender<Verdict>,
}

impl Prober {
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
