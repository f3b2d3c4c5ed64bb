//! `weir check`, `weir proxy` and `weir policy` on a mesh that runs.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::Value;

use super::{
    client::gets,
    manifest::{App, allow_http, service},
};
use crate::{Outcome, Tests, scene::Scene, world::World};

const SPACE: &str = "commands";

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.enforcing("commands::check_proxy_and_policy_tell_what_is_so", tell);
}

async fn tell(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, SPACE).await?;
    let bare = App {
        annotations: "openservicemesh.io/sidecar-injection: disabled",
        ..App::client("bare")
    };
    let objects = [
        App::new("server", "mirror --port=8080").deployment(),
        service("server", "server", "{name: http-web, port: 8080}"),
        service("vague", "nobody", "{name: web, port: 8080}"),
        App::client("client").deployment(),
        App::client("other").deployment(),
        bare.deployment(),
        allow_http(SPACE, "server", &["client"]),
    ];
    scene.apply(&objects.concat()).await?;
    scene
        .ready(&["app=server", "app=client", "app=other", "app=bare"])
        .await?;
    let client = scene.pod("app=client").await?;
    gets(&scene, &client, "http://server:8080/", 200).await?;
    check(&world).await?;
    policy(&scene).await?;
    proxy(&scene, &client).await
}

async fn check(world: &World) -> anyhow::Result<()> {
    let told = world.weir(&["check", "--namespace", SPACE, "-o", "json"]).await?;
    let report: Value = serde_json::from_str(&told)?;
    let findings: Vec<&Value> = report
        .pointer("/sections")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|section| section.get("findings")?.as_array())
        .flatten()
        .collect();
    let of = |object: &str| findings.iter().filter(|it| it["object"] == object).count();
    // Two: its port has no protocol, and its selector matches nothing.
    ensure!(of("Service commands/vague") == 2, "{told}");
    ensure!(
        findings.len() == 2,
        "there is more wrong than was put there: {told}"
    );
    let text = world.weir(&["check", "--namespace", SPACE]).await?;
    ensure!(
        text.contains("2 of 2 controllers are ready") && text.contains("root valid for"),
        "{text}"
    );
    let wrong = world.run_weir(&["check", "--namespace", "default"]).await?;
    let text = String::from_utf8_lossy(&wrong.stdout);
    ensure!(
        wrong.status.code() == Some(1) && text.contains("Namespace default: it is not in the mesh"),
        "{text}"
    );
    let before = world.weir(&["check", "--pre"]).await?;
    ensure!(before.contains("you may make 13 of 13 kinds"), "{before}");
    Ok(())
}

async fn policy(scene: &Scene) -> anyhow::Result<()> {
    let server = format!("{SPACE}/{}", scene.pod("app=server").await?);
    let expected = [
        ("client", 0, "by TrafficTarget commands/server"),
        ("other", 1, "is not among its sources"),
        ("bare", 1, "accepts mTLS only"),
    ];
    for (app, code, text) in expected {
        let pod = format!("{SPACE}/{}", scene.pod(&format!("app={app}")).await?);
        let output = scene
            .world()
            .run_weir(&["policy", "check-pods", &pod, &server])
            .await?;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.code() == Some(code) && told.contains(text),
            "{app}: {output:?}"
        );
    }
    Ok(())
}

async fn proxy(scene: &Scene, client: &str) -> anyhow::Result<()> {
    let world = scene.world();
    let server = scene.pod("app=server").await?;
    let expected = [
        ("certs", "spiffe://cluster.local/ns/commands/sa/client".to_owned()),
        ("endpoints", format!("{SPACE}/{server}")),
        ("config", "listener".to_owned()),
    ];
    for (page, text) in expected {
        let told = world.weir(&["proxy", page, client, "--namespace", SPACE]).await?;
        ensure!(told.contains(&text), "weir proxy {page} lacks {text}: {told}");
        let json = world
            .weir(&["proxy", page, &format!("{SPACE}/{client}"), "-o", "json"])
            .await?;
        let _: Value = serde_json::from_str(&json)?;
    }
    let bare = scene.pod("app=bare").await?;
    let output = world.run_weir(&["proxy", "certs", &bare, "-n", SPACE]).await?;
    ensure!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("has no sidecar"),
        "{output:?}"
    );
    Ok(())
}
