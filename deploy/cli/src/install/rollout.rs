//! Waits until the controllers run, and says meanwhile what they wait for.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::bail;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, Client, api::ListParams};
use tokio::time::{Instant, sleep};

use super::diagnose::{self, Problem};
use crate::{api::explain, manifests::CONTROLLER};

const POLL: Duration = Duration::from_secs(1);

/// Waits until every controller is of the newest version and ready.
///
/// # Errors
/// When that is not so at `deadline`; the text names the objects in the way and what to do.
pub(super) async fn wait(client: &Client, namespace: &str, deadline: Instant) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = ListParams::default().labels(&format!("app={CONTROLLER}"));
    let mut said = String::new();
    loop {
        let deployment = deployments.get(CONTROLLER).await.map_err(explain)?;
        if diagnose::rolled_out(&deployment) {
            return Ok(());
        }
        let pods = pods.list(&selector).await.map_err(explain)?.items;
        let problems = diagnose::problems(namespace, &deployment, &pods);
        let state = format!("waiting: {}", diagnose::summary(&deployment, &problems));
        if state != said {
            writeln!(io::stdout(), "{state}")?;
            said = state;
        }
        if Instant::now() + POLL > deadline {
            bail!(
                "the controllers are not ready in time{}",
                problems.iter().map(Problem::line).collect::<String>()
            );
        }
        sleep(POLL).await;
    }
}
