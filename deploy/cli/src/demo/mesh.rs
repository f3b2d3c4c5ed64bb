//! The bookstore's mesh, as the phases look at it.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use weir_controller::spec::PROXY_CONTAINER;
use weir_testbed::{Capture, Sandbox};

use super::scrape::Scrape;
use crate::local::{Envoys, LocalMesh, Options, programs::Programs};

/// How long the mesh may take to come up. Far more than it needs: a busy machine is not a broken mesh.
const START: Duration = Duration::from_secs(60);
const RESTART: Duration = Duration::from_secs(30);
/// At most this much is recorded, in bytes.
const CAPTURED: usize = 64 << 20;
/// Lines of a log that are shown with a failure.
const CONTROLLER_LINES: usize = 12;
const SIDECAR_LINES: usize = 6;

/// A part of the bookstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum App {
    Bookbuyer,
    Bookthief,
    Bookwarehouse,
    Mysql,
}

impl App {
    /// `namespace/name` of its workload.
    const fn selector(self) -> &'static str {
        match self {
            Self::Bookbuyer => "bookbuyer/bookbuyer",
            Self::Bookthief => "bookthief/bookthief",
            Self::Bookwarehouse => "bookwarehouse/bookwarehouse",
            Self::Mysql => "bookwarehouse/mysql",
        }
    }
}

impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = self.selector().split_once('/').unwrap_or_default();
        f.write_str(name)
    }
}

/// The bookstore on its mesh.
pub(crate) struct Mesh {
    local: LocalMesh,
    manifests: PathBuf,
    /// How much of the controller's log was told already, in bytes.
    told: AtomicUsize,
}

impl Mesh {
    /// Starts it and waits until every pod is ready.
    pub(crate) async fn start(
        sandbox: Sandbox,
        programs: &Programs,
        envoys: Option<Envoys>,
        manifests: &Path,
        scratch: &Path,
    ) -> anyhow::Result<Self> {
        let local = LocalMesh::start(Options {
            sandbox,
            programs: programs.clone(),
            envoys,
            manifests: manifests.to_owned(),
            run: scratch.join("run"),
        })
        .await?;
        let mesh = Self {
            local,
            manifests: manifests.to_owned(),
            told: AtomicUsize::new(0),
        };
        match mesh.local.ready(START).await {
            Ok(()) => Ok(mesh),
            Err(error) => Err(error.context(format!(
                "the bookstore does not come up\n{}",
                mesh.evidence().await
            ))),
        }
    }

    /// Directory of the manifests.
    pub(crate) fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// What a part of the bookstore says of itself.
    pub(crate) async fn raw<T: DeserializeOwned>(&self, app: App) -> anyhow::Result<T> {
        let reply = self.local.get_local(app.selector(), 14001, "/raw").await?;
        ensure!(
            reply.status.is_success(),
            "{app} answers {}: {}",
            reply.status,
            reply.body.trim()
        );
        Ok(serde_json::from_str(&reply.body)?)
    }

    /// Connects from one part's pod to another's address.
    pub(crate) async fn dial(&self, from: App, to: App, port: u16) -> anyhow::Result<TcpStream> {
        let pod = self.local.testbed().find(to.selector())?;
        let ip = pod.ips.first().with_context(|| format!("{to} has no address"))?;
        self.local.dial(from.selector(), SocketAddr::new(*ip, port)).await
    }

    /// Begins to record what passes between pods.
    pub(crate) fn capture(&self) -> anyhow::Result<Capture> {
        self.local.testbed().capture(CAPTURED)
    }

    /// What every sidecar shows to Prometheus, by pod.
    pub(crate) async fn each_sidecar(&self) -> anyhow::Result<BTreeMap<String, Scrape>> {
        let mut scrapes = BTreeMap::new();
        for pod in self.local.meshed() {
            let scrape = Scrape::parse(&self.local.metrics(&pod).await?);
            scrapes.insert(pod.name, scrape);
        }
        Ok(scrapes)
    }

    /// What the controller shows to Prometheus.
    pub(crate) async fn controller(&self) -> anyhow::Result<Scrape> {
        Ok(Scrape::parse(&self.local.controller_metrics().await?))
    }

    /// What every sidecar shows to Prometheus; one that does not answer is left out.
    pub(crate) async fn scrape_all(&self) -> Vec<Scrape> {
        let mut scrapes = Vec::new();
        for pod in self.local.meshed() {
            if let Ok(text) = self.local.metrics(&pod).await {
                scrapes.push(Scrape::parse(&text));
            }
        }
        scrapes
    }

    /// Kills the controller; another takes its place.
    pub(crate) async fn restart_controller(&self) -> anyhow::Result<()> {
        self.local.restart_controller(RESTART).await
    }

    /// What the controller has warned of since this was last asked.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let log = self.local.controller_log();
        let complete = log.rfind('\n').map_or(0, |end| end + 1);
        let told = self.told.swap(complete, Ordering::Relaxed).min(complete);
        log[told..complete]
            .lines()
            .filter_map(warning)
            .map(str::to_owned)
            .collect()
    }

    /// What may explain a failure: what customers saw, and the end of every log of the mesh.
    pub(crate) async fn evidence(&self) -> String {
        let mut text = String::new();
        for app in [App::Bookbuyer, App::Bookthief] {
            let reply = self.local.get_local(app.selector(), 14001, "/raw").await;
            let seen = reply.map_or_else(|error| format!("{error:#}"), |reply| reply.body);
            text.push_str(&format!("{app}: {seen}\n"));
        }
        for pod in self.local.meshed() {
            let selector = format!("{}/{}", pod.namespace, pod.name);
            let log = self
                .local
                .testbed()
                .logs(&selector, PROXY_CONTAINER)
                .unwrap_or_default();
            text.push_str(&format!(
                "\nsidecar of {selector}:\n{}\n",
                last(&log, SIDECAR_LINES)
            ));
        }
        let log = self.local.controller_log();
        text + &format!("\ncontroller:\n{}", last(&log, CONTROLLER_LINES))
    }

    /// Ends every pod.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.local.stop().await
    }
}

fn last(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The message of a warning or an error, without time and module.
fn warning(line: &str) -> Option<&str> {
    let (_, rest) = [" WARN ", " ERROR "]
        .into_iter()
        .find_map(|level| line.split_once(level))?;
    Some(rest.split_once(": ").map_or(rest, |(_, message)| message))
}
