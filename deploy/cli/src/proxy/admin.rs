//! A request to a sidecar's admin address, which is on the pod's loopback: through a port forwarded by the API server.

use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::timeout;
use weir_controller::spec::{ObjectName, has_sidecar};

use crate::api::{explain, is_missing};

/// The sidecar's admin port.
const PORT: u16 = 15000;
/// How long the whole exchange may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes of a page at most.
const LARGEST: usize = 64 << 20;

/// A page of the sidecar.
///
/// # Errors
/// When there is no such pod, it has no sidecar, or the sidecar does not answer.
pub(super) async fn ask(client: &Client, name: &ObjectName, path: &str) -> anyhow::Result<Value> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
    let pod = match pods.get(&name.name).await {
        Ok(pod) => pod,
        Err(error) if is_missing(&error) => bail!(
            "there is no Pod {name}; see kubectl -n {} get pods",
            name.namespace
        ),
        Err(error) => return Err(explain(error)).with_context(|| format!("cannot look at Pod {name}")),
    };
    if !has_sidecar(&pod) {
        bail!(
            "Pod {name} has no sidecar; see why with `weir check --namespace {}`",
            name.namespace
        );
    }
    let asked = timeout(LIMIT, exchange(&pods, &name.name, path)).await;
    asked
        .with_context(|| format!("no answer within {LIMIT:?}"))
        .flatten()
        .with_context(|| {
            format!(
                "cannot ask the sidecar of Pod {name}; see kubectl -n {} logs {} -c weir-proxy",
                name.namespace, name.name
            )
        })
}

async fn exchange(pods: &Api<Pod>, pod: &str, path: &str) -> anyhow::Result<Value> {
    let mut forwarder = pods.portforward(pod, &[PORT]).await.map_err(explain)?;
    let stream = forwarder.take_stream(PORT).context("no stream is offered")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let served = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    served.abort();
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body).trim());
    }
    serde_json::from_slice(&body).context("its answer is not JSON")
}
