//! One container's life: start, probes, restarts with back-off, the end.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::prober::{Prober, Verdict};
use super::{ContainerStatus, Context, spec};
use crate::container::{self, Spec};

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
        let prober = Prober {
            context: Arc::clone(&self.context),
            container: self.container.clone(),
            spec: Spec {
                join: pid,
                ..self.spec.clone()
            },
            verdicts,
        };
        let probes = prober.start();
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
