//! Pods: waiting for them, running programs in them, reading what they log and count.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow, bail, ensure};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client, ResourceExt,
    api::{AttachParams, ListParams, LogParams},
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Scene, Scrape};

/// Lines of each container's log that evidence shows.
const LINES: i64 = 12;
/// Bytes that a program run in a pod may print.
const PRINTED: u64 = 1 << 20;
/// The port of a sidecar's metrics.
const METRICS: u16 = 15010;

/// What a program run in a pod has printed, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Fails unless the program ended so, with this in its output.
    pub(crate) fn expect(&self, code: i32, text: &str) -> anyhow::Result<()> {
        ensure!(
            self.code == code && self.stdout.contains(text),
            "expected status {code} and {text:?}, got {self:?}"
        );
        Ok(())
    }

    /// What it printed, when it ended well.
    pub(crate) fn success(self) -> anyhow::Result<String> {
        ensure!(
            self.code == 0,
            "status {}: {}{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self.stdout)
    }

    /// What it printed, as JSON, when it ended well.
    pub(crate) fn json<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let text = self.success()?;
        serde_json::from_str(&text).with_context(|| format!("not as expected: {text}"))
    }
}

impl Scene {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client(), self.namespace())
    }

    /// The pods of these labels (`app=web`), those on their way out left aside.
    pub(crate) async fn list(&self, labels: &str) -> anyhow::Result<Vec<Pod>> {
        let found = self.pods().list(&ListParams::default().labels(labels)).await?;
        let stays = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        Ok(found.items.into_iter().filter(stays).collect())
    }

    /// Waits until each of these labels has a pod, and all such pods are ready.
    pub(crate) async fn ready(&self, labels: &[&str]) -> anyhow::Result<()> {
        for labels in labels {
            let all_ready = || async {
                let pods = self.list(labels).await?;
                ensure!(!pods.is_empty(), "no pod has {labels}");
                pods.iter().try_for_each(is_ready)
            };
            self.eventually(&format!("the pods of {labels} to be ready"), all_ready)
                .await?;
        }
        Ok(())
    }

    /// Waits for exactly this many pods of these labels, all ready.
    pub(crate) async fn replicas(&self, labels: &str, count: usize) -> anyhow::Result<Vec<Pod>> {
        self.eventually(&format!("{count} ready pods of {labels}"), || async {
            let pods = self.list(labels).await?;
            ensure!(pods.len() == count, "there are {}", pods.len());
            pods.iter().try_for_each(is_ready)?;
            Ok(pods)
        })
        .await
    }

    /// The name of a ready pod of these labels; waits for one.
    pub(crate) async fn pod(&self, labels: &str) -> anyhow::Result<String> {
        self.eventually(&format!("a ready pod of {labels}"), || async {
            let pods = self.list(labels).await?;
            let ready = pods.iter().find(|pod| is_ready(pod).is_ok());
            Ok(ready
                .with_context(|| format!("none of {} is", pods.len()))?
                .name_any())
        })
        .await
    }

    /// A pod as the API server has it.
    pub(crate) async fn look_at(&self, pod: &str) -> anyhow::Result<Pod> {
        Ok(self.pods().get(pod).await?)
    }

    /// Runs a program in a container and waits for its end.
    pub(crate) async fn exec(&self, pod: &str, container: &str, argv: &[&str]) -> anyhow::Result<Output> {
        let ran = exec(&self.pods(), pod, container, argv).await;
        ran.with_context(|| format!("cannot run {argv:?} in {}/{pod} {container}", self.namespace()))
    }

    /// Asks a pod for a path, from the API server: as a client outside of the mesh does, without a sidecar.
    pub(crate) async fn ask(&self, pod: &str, port: u16, path: &str) -> anyhow::Result<String> {
        let place = format!(
            "/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/{path}",
            self.namespace()
        );
        let request = http::Request::get(place).body(Vec::new())?;
        let answer = self.client().request_text(request).await;
        answer.with_context(|| format!("cannot ask {}/{pod}:{port} for {path}", self.namespace()))
    }

    /// What a pod's sidecar shows to Prometheus.
    pub(crate) async fn scrape(&self, pod: &str) -> anyhow::Result<Scrape> {
        Ok(Scrape::parse(&self.ask(pod, METRICS, "stats/prometheus").await?))
    }
}

async fn exec(pods: &Api<Pod>, pod: &str, container: &str, argv: &[&str]) -> anyhow::Result<Output> {
    let parameters = AttachParams {
        container: Some(container.to_owned()),
        stdin: false,
        stdout: true,
        stderr: true,
        ..AttachParams::default()
    };
    let mut running = pods.exec(pod, argv.iter().copied(), &parameters).await?;
    let status = running.take_status().context("no status is offered")?;
    let (stdout, stderr) = (running.stdout(), running.stderr());
    let (stdout, stderr) = tokio::try_join!(text(stdout), text(stderr))?;
    let code = exit_code(
        status
            .await
            .context("the connection ended before the program did")?,
    )?;
    Ok(Output { code, stdout, stderr })
}

async fn text(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(PRINTED).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The exit code in the status that ends an exec.
fn exit_code(status: Status) -> anyhow::Result<i32> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status
        .details
        .and_then(|details| details.causes)
        .unwrap_or_default();
    let code = causes
        .iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_deref()?.parse().ok());
    code.ok_or_else(|| anyhow!("{}", status.message.unwrap_or_default()))
}

/// Fails, with what is missing, unless the pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> anyhow::Result<()> {
    let status = pod.status.as_ref().context("no status yet")?;
    let conditions: BTreeMap<_, _> = status
        .conditions
        .iter()
        .flatten()
        .map(|condition| (condition.type_.as_str(), condition))
        .collect();
    if conditions
        .get("Ready")
        .is_some_and(|ready| ready.status == "True")
    {
        return Ok(());
    }
    let waits = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    let waits = waits.filter(|container| !container.ready).map(|container| {
        let state = container.state.as_ref();
        let waiting = state.and_then(|state| state.waiting.as_ref());
        let reason = waiting.map(|waiting| format!("{:?} {:?}", waiting.reason, waiting.message));
        format!(
            "{}: {}",
            container.name,
            reason.unwrap_or_else(|| format!("{state:?}"))
        )
    });
    bail!(
        "{} is {:?}: {}",
        pod.name_any(),
        status.phase,
        waits.collect::<Vec<_>>().join("; ")
    )
}

/// The state and the ends of the logs of a namespace's pods.
pub(crate) async fn evidence(client: &Client, namespace: &str) -> String {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let Ok(list) = pods.list(&ListParams::default()).await else {
        return String::new();
    };
    let mut text = String::new();
    for pod in list.items {
        let state = is_ready(&pod).map_or_else(
            |error| error.to_string(),
            |()| format!("{} is ready", pod.name_any()),
        );
        text.push_str(&format!("{state}\n"));
        let spec = pod.spec.as_ref();
        let init = spec
            .and_then(|spec| spec.init_containers.as_ref())
            .into_iter()
            .flatten();
        for container in init.chain(spec.iter().flat_map(|spec| &spec.containers)) {
            let parameters = LogParams {
                container: Some(container.name.clone()),
                tail_lines: Some(LINES),
                ..LogParams::default()
            };
            let log = pods.logs(&pod.name_any(), &parameters).await.unwrap_or_default();
            if !log.is_empty() {
                text.push_str(&format!("--- {} {}:\n{log}\n", pod.name_any(), container.name));
            }
        }
    }
    text
}
