//! What users are told about their objects.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::Value;

use crate::{
    Outcome, Tests,
    space::Space,
    watches::{allow, service},
    world::{World, eventually},
};

const TARGET: (&str, &str, &str) = ("access.smi-spec.io/v1alpha3", "TrafficTarget", "server-client");

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.beside(
        "status::an_object_says_whether_it_is_in_force_and_why_not",
        accepted,
    );
}

/// The condition of the TrafficTarget, once it is about the present generation and has this status.
async fn condition(space: &Space, status: &str) -> anyhow::Result<Value> {
    let (version, kind, name) = TARGET;
    eventually("the condition to be written", || async {
        let object = space.get(version, kind, name).await?;
        let condition = object
            .data
            .pointer("/status/conditions/0")
            .context("no condition")?;
        ensure!(
            condition["type"] == "Accepted" && condition["status"] == status,
            "{condition}"
        );
        ensure!(
            condition["observedGeneration"] == Value::from(object.metadata.generation),
            "{condition}"
        );
        Ok(condition.clone())
    })
    .await
}

async fn accepted(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "status", &["client", "server"]).await?;
    space.apply(&service("server")).await?;
    space.run_pod("client", "client", "10.4.1.1").await?;
    space.run_pod("server", "server", "10.4.1.2").await?;
    space.apply(&allow("server", "client")).await?;
    let good = condition(&space, "True").await?;
    ensure!(good["reason"] == "Accepted", "{good}");

    let wrong = allow("server", "client").replace("name: server-any, matches", "name: nowhere, matches");
    space.apply(&wrong).await?;
    let bad = condition(&space, "False").await?;
    let message = bad["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("spec.rules[0].name") && message.contains("nowhere"),
        "{bad}"
    );
    ensure!(bad["lastTransitionTime"].is_string(), "{bad}");
    let events = Api::<Event>::namespaced(space.client(), &space.name);
    eventually("an event", || async {
        let events = events.list(&ListParams::default()).await?;
        let about = |event: &&Event| {
            let regarding = event.regarding.as_ref();
            regarding.and_then(|it| it.name.as_deref()) == Some(TARGET.2)
                && event.type_.as_deref() == Some("Warning")
        };
        let event = events.items.iter().find(about).context("no event about it")?;
        ensure!(
            event.note.as_deref().is_some_and(|note| note.contains("nowhere")),
            "{event:?}"
        );
        Ok(())
    })
    .await?;

    space.apply(&allow("server", "client")).await?;
    condition(&space, "True").await?;
    // Who writes only what changes leaves the object alone now.
    let version = async || {
        anyhow::Ok(
            space
                .get(TARGET.0, TARGET.1, TARGET.2)
                .await?
                .metadata
                .resource_version,
        )
    };
    let before = version().await?;
    let later = Space::open(&world, "status-later", &["client", "server"]).await?;
    later.apply(&service("server")).await?;
    later.apply(&allow("server", "client")).await?;
    condition(&later, "True").await?;
    ensure!(
        version().await? == before,
        "the status is written again and again"
    );
    Ok(())
}
