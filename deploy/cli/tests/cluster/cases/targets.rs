//! What TrafficTargets allow.

use std::sync::Arc;

use super::{
    client::{gets, gets_nothing},
    manifest::{App, allow_http, service},
};
use crate::{
    Outcome, Tests,
    scene::{Scene, Target},
    world::World,
};

const URL: &str = "http://server:8080/";

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.enforcing("targets::allow_deny_delete", allow_deny_delete);
}

/// The one that is named gets answers, another is refused; nobody once the TrafficTarget is gone.
async fn allow_deny_delete(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "targets").await?;
    let objects = [
        App::new("server", "mirror --port=8080").deployment(),
        service("server", "server", "{name: http-web, port: 8080}"),
        App::client("client").deployment(),
        App::client("other").deployment(),
    ];
    scene.apply(&objects.concat()).await?;
    scene.ready(&["app=server", "app=client", "app=other"]).await?;
    let (client, other) = (scene.pod("app=client").await?, scene.pod("app=other").await?);
    gets_nothing(&scene, &client, URL).await?;

    scene.apply(&allow_http("targets", "server", &["client"])).await?;
    gets(&scene, &client, URL, 200).await?;
    gets(&scene, &other, URL, 403).await?;

    let target = Target {
        version: "access.smi-spec.io/v1alpha3",
        kind: "TrafficTarget",
        name: "server",
    };
    scene.delete(target).await?;
    gets_nothing(&scene, &client, URL).await?;
    gets_nothing(&scene, &other, URL).await
}
