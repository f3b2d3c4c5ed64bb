//! Permissive mode: everybody of the mesh may, nobody else.

use std::sync::Arc;

use serde_json::json;

use super::{
    client::{gets, gets_nothing},
    manifest::{App, allow_http, service},
};
use crate::{Outcome, Tests, scene::Scene, world::World};

const SPACE: &str = "permissive";
const URL: &str = "http://server.permissive:8080/";

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.alone("permissive::on_off_on_and_then_policy", switched);
}

async fn permit(world: &World, permissive: bool) -> anyhow::Result<()> {
    let traffic = json!({"traffic": {"enablePermissiveTrafficPolicyMode": permissive}});
    world.configure(&json!({"spec": traffic})).await
}

async fn switched(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, SPACE).await?;
    let outside = Scene::outside(&world, "permissive-outside").await?;
    permit(&world, true).await?;
    let objects = [
        App::new("server", "mirror --port=8080").deployment(),
        service("server", "server", "{name: http-web, port: 8080}"),
        App::client("client").deployment(),
    ];
    scene.apply(&objects.concat()).await?;
    outside.apply(&App::client("stranger").deployment()).await?;
    scene.ready(&["app=server", "app=client"]).await?;
    let (client, stranger) = (scene.pod("app=client").await?, outside.pod("app=stranger").await?);

    gets(&scene, &client, URL, 200).await?;
    gets(&outside, &stranger, URL, 0).await?;
    permit(&world, false).await?;
    gets_nothing(&scene, &client, URL).await?;
    permit(&world, true).await?;
    gets(&scene, &client, URL, 200).await?;
    scene.apply(&allow_http(SPACE, "server", &["client"])).await?;
    permit(&world, false).await?;
    gets(&scene, &client, URL, 200).await?;
    gets(&outside, &stranger, URL, 0).await?;
    Ok(())
}
