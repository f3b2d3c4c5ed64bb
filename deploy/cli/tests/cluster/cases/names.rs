//! Name resolution over TCP, as a node-local cache and long answers need it: it passes the sidecar.

use std::sync::Arc;

use super::{
    client::gets,
    manifest::{App, service},
};
use crate::{Outcome, Tests, scene::Scene, world::World};

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.permissive("names::over_tcp", over_tcp);
}

async fn over_tcp(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "names").await?;
    let client = App {
        spec: "dnsConfig: {options: [{name: use-vc}]}",
        ..App::client("client")
    };
    let objects = [
        App::new("server", "mirror --port=8080").deployment(),
        service("server", "server", "{name: http-web, port: 8080}"),
        client.deployment(),
    ];
    scene.apply(&objects.concat()).await?;
    scene.ready(&["app=server", "app=client"]).await?;
    let client = scene.pod("app=client").await?;
    gets(
        &scene,
        &client,
        "http://server.names.svc.cluster.local:8080/",
        200,
    )
    .await?;
    Ok(())
}
