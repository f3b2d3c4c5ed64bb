//! Bytes of any kind, whoever speaks first.

use std::sync::Arc;

use anyhow::ensure;

use super::{
    client::tell,
    manifest::{App, allow_tcp, service},
};
use crate::{Outcome, Tests, scene::Scene, world::World};

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.enforcing("tcp::policy_names_the_ports", enforced);
    tests.permissive("tcp::echo_and_server_first", permissive);
}

async fn permissive(world: Arc<World>) -> Outcome {
    let (scene, client) = stage(&world, "tcp-permissive").await?;
    echo(&scene, &client, "server:9000").await?;
    greeted(&scene, &client, "greeter:9001").await
}

async fn enforced(world: Arc<World>) -> Outcome {
    let (scene, client) = stage(&world, "tcp-enforced").await?;
    scene
        .apply(&allow_tcp("tcp-enforced", "server", &["client"], "9000"))
        .await?;
    scene
        .apply(&allow_tcp("tcp-enforced", "greeter", &["client"], "9002"))
        .await?;
    echo(&scene, &client, "server:9000").await?;
    let refused = || async {
        let said = tell(&scene, &client, "greeter:9001", "hello", 1).await;
        ensure!(said.is_err(), "port 9001 is not allowed, and said {said:?}");
        Ok(())
    };
    scene
        .eventually("the port that is not named to be closed", refused)
        .await?;
    scene
        .apply(&allow_tcp("tcp-enforced", "greeter", &["client"], "9001"))
        .await?;
    greeted(&scene, &client, "greeter:9001").await
}

async fn stage(world: &Arc<World>, namespace: &str) -> anyhow::Result<(Scene, String)> {
    let scene = Scene::open(world, namespace).await?;
    let objects = [
        App::new("server", "echo --port=9000").deployment(),
        service("server", "server", "{name: echo, port: 9000, appProtocol: tcp}"),
        App::new("greeter", "echo --port=9001 --greeting=welcome").deployment(),
        service(
            "greeter",
            "greeter",
            "{name: greeter, port: 9001, appProtocol: tcp-server-first}",
        ),
        App::client("client").deployment(),
    ];
    scene.apply(&objects.concat()).await?;
    scene.ready(&["app=server", "app=greeter", "app=client"]).await?;
    let client = scene.pod("app=client").await?;
    Ok((scene, client))
}

async fn echo(scene: &Scene, client: &str, to: &str) -> anyhow::Result<()> {
    let said = || async {
        let said = tell(scene, client, to, "hello", 0).await?;
        ensure!(said == "hello", "{said:?}");
        Ok(())
    };
    scene.eventually("the echo", said).await
}

/// The client says nothing before it has heard the server.
async fn greeted(scene: &Scene, client: &str, to: &str) -> anyhow::Result<()> {
    let said = || async {
        let said = tell(scene, client, to, "hello", 7).await?;
        ensure!(said == "welcome\nhello", "{said:?}");
        Ok(())
    };
    scene.eventually("the greeting", said).await
}
