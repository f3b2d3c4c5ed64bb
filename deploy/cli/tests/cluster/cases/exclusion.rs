//! What is not redirected, by the pod's annotations, while sidecars connect to the mesh only.

use std::sync::Arc;

use anyhow::Context;
use serde_json::json;

use super::{
    client::{gets, gets_nothing},
    manifest::{App, service},
};
use crate::{Outcome, Tests, scene::Scene, world::World};

const WEB: &str = "{name: http-web, port: 8080}";
const URL: &str = "http://server.exclusion-outside:8080/";

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.alone("exclusion::ports_and_addresses", excluded);
}

async fn egress(world: &World, allowed: bool) -> anyhow::Result<()> {
    world
        .configure(&json!({"spec": {"traffic": {"enableEgress": allowed}}}))
        .await
}

async fn excluded(world: Arc<World>) -> Outcome {
    egress(&world, false).await?;
    let outcome = stage(&world).await;
    egress(&world, true).await?;
    outcome
}

async fn stage(world: &Arc<World>) -> Outcome {
    let scene = Scene::open(world, "exclusion").await?;
    let outside = Scene::outside(world, "exclusion-outside").await?;
    let server = App::new("server", "mirror --port=8080").deployment();
    outside
        .apply(&(server + &service("server", "server", WEB)))
        .await?;
    outside.apply(&App::client("stranger").deployment()).await?;
    let server = scene_address(&outside).await?;

    let by_port = App {
        annotations: "openservicemesh.io/outbound-port-exclusion-list: '8080'",
        ..App::client("by-port")
    };
    let range = format!("openservicemesh.io/outbound-ip-range-exclusion-list: '{server}/32'");
    let by_address = App {
        annotations: &range,
        ..App::client("by-address")
    };
    let open = App {
        annotations: "openservicemesh.io/inbound-port-exclusion-list: '8080'",
        ..App::new("open", "mirror --port=8080")
    };
    let objects = [
        App::client("plain").deployment(),
        by_port.deployment(),
        by_address.deployment(),
        open.deployment(),
        service("open", "open", WEB),
    ];
    scene.apply(&objects.concat()).await?;
    let apps = ["plain", "by-port", "by-address", "open"];
    scene
        .ready(
            &apps
                .map(|app| format!("app={app}"))
                .each_ref()
                .map(String::as_str),
        )
        .await?;

    let at_address = format!("http://{server}:8080/");
    gets(&scene, &scene.pod("app=by-port").await?, URL, 200).await?;
    gets(&scene, &scene.pod("app=by-address").await?, &at_address, 200).await?;
    let plain = scene.pod("app=plain").await?;
    gets_nothing(&scene, &plain, URL).await?;
    gets_nothing(&scene, &plain, &at_address).await?;
    let stranger = outside.pod("app=stranger").await?;
    gets(&outside, &stranger, "http://open.exclusion:8080/", 200).await?;
    Ok(())
}

/// The address of the server's pod.
async fn scene_address(outside: &Scene) -> anyhow::Result<String> {
    let server = outside.pod("app=server").await?;
    let pod = outside.look_at(&server).await?;
    let status = pod.status.context("a ready pod has a status")?;
    status.pod_ip.context("a ready pod has an address")
}
