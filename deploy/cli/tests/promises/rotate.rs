//! Certificates that are replaced while they are used.

use std::sync::Arc;

use anyhow::ensure;

use crate::{
    Outcome, Tests, client, exposition,
    load::Load,
    manifest::{allow_http, allow_tcp, member, service},
    scene::Scene,
    server,
    world::World,
};

/// Renewals that are waited for, of each sidecar.
const ROTATIONS: f64 = 2.0;

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "rotate::under_load_no_request_fails_and_no_connection_ends",
        rotate,
    );
}

async fn rotate(world: Arc<World>) -> Outcome {
    let parts = [
        member("client"),
        member("server"),
        service(
            "server",
            "{name: http-web, port: 8080}, {name: tcp-echo, port: 7000}",
        ),
        allow_http("server", &["client"]),
        allow_tcp("server", &["client"], "7000"),
    ];
    let scene = Scene::open(Arc::clone(&world), "rotate", &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    scene.serve(server::echo(scene.listen("server", 7000).await?));
    let (web, tcp) = (scene.service("server", 8080)?, scene.service("server", 7000)?);
    let reached = || async { scene.get("client", web, "/").await?.expect(200) };
    scene.eventually("the server is reached", reached).await?;
    let connected = || async {
        let mut stream = scene.dial("client", tcp).await?;
        client::echo(&mut stream, b"before").await?;
        Ok(stream)
    };
    let mut stream = scene.eventually("a connection is let in", connected).await?;

    let mut load = Load::start(Arc::clone(&world), scene.pod("client"), web, "/");
    let before = rotations(&world, &scene).await?;
    // Each look is a hundred requests later.
    loop {
        load.more(100).await?;
        client::echo(&mut stream, b"still here").await?;
        let now = rotations(&world, &scene).await?;
        if before
            .iter()
            .zip(&now)
            .all(|(before, now)| now - before >= ROTATIONS)
        {
            break;
        }
    }
    load.more(100).await?;
    client::echo(&mut stream, b"after").await?;
    load.stop().await?;
    for pod in ["client", "server"] {
        let scrape = exposition::sidecar(&world, &scene.pod(pod)).await?;
        let failures = scrape.sum("weir_certificate_failures_total", &[]);
        ensure!(failures == 0.0, "{failures} renewals of {pod} failed");
    }
    Ok(())
}

async fn rotations(world: &World, scene: &Scene) -> anyhow::Result<[f64; 2]> {
    let mut counts = [0.0; 2];
    for (count, pod) in counts.iter_mut().zip(["client", "server"]) {
        let scrape = exposition::sidecar(world, &scene.pod(pod)).await?;
        *count = scrape.sum("weir_certificate_rotations_total", &[]);
    }
    Ok(counts)
}
