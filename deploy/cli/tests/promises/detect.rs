//! What happens on ports whose protocol nobody declared.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use tokio::time::Instant;

use crate::{
    Outcome, Tests, client,
    manifest::{allow_http, allow_tcp, member, routes, service, target},
    scene::Scene,
    server,
    tls::Pair,
    world::World,
};

/// The sidecars' default is 200 ms.
const AT_LEAST: Duration = Duration::from_millis(100);
const AT_MOST: Duration = Duration::from_secs(1);
const GREETING: &[u8] = b"220 ready\r\n";

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add("detect::http_on_an_undeclared_port_is_routed_as_http", http);
    tests.add("detect::opaque_bytes_on_an_undeclared_port_pass", opaque);
    tests.add("detect::a_silent_client_waits_no_longer_than_the_timeout", silent);
    tests.add("detect::tls_of_the_client_s_own_passes_through", tls);
}

async fn http(world: Arc<World>) -> Outcome {
    let parts = [
        member("client"),
        member("server"),
        service("server", "{name: books, port: 8080}"),
        routes("reading", "{name: read, pathRegex: '/books.*', methods: [GET]}"),
        target("server", &["client"], "HTTPRouteGroup", "reading", "read"),
    ];
    let scene = Scene::open(world, "detect-http", &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    let to = scene.service("server", 8080)?;
    let allowed = || async { scene.get("client", to, "/books/1").await?.expect(200) };
    let reply = scene.eventually("the request is let through", allowed).await?;
    ensure!(
        reply.header(server::IDENTITY) == "server",
        "another server answered"
    );
    // Only who reads the request can refuse it by its path.
    let reply = scene.get("client", to, "/elsewhere").await?.expect(404)?;
    ensure!(reply.reason() == "no_route", "the reason is {:?}", reply.reason());
    Ok(())
}

async fn opaque(world: Arc<World>) -> Outcome {
    let scene = undeclared(world, "detect-opaque").await?;
    scene.serve(server::echo(scene.listen("server", 7000).await?));
    let to = scene.service("server", 7000)?;
    for bytes in [
        &b"\x00\x01\x02\xff"[..],
        b"PING\r\n",
        b"G",
        b"GET me some tea\n",
        b"\x16not tls",
    ] {
        let pass = || async { client::echo(&mut scene.dial("client", to).await?, bytes).await };
        scene.eventually(&format!("{bytes:?} passes"), pass).await?;
    }
    Ok(())
}

async fn silent(world: Arc<World>) -> Outcome {
    let scene = undeclared(world, "detect-silent").await?;
    scene.serve(server::greet(scene.listen("server", 7000).await?, GREETING));
    let to = scene.service("server", 7000)?;
    let greeted = || async {
        let begun = Instant::now();
        let mut stream = scene.dial("client", to).await?;
        let greeting = client::read(&mut stream, GREETING.len()).await?;
        ensure!(greeting == GREETING, "{greeting:?} came");
        Ok(begun.elapsed())
    };
    scene.eventually("the greeting comes", greeted).await?;
    // The best of a few: a busy machine delays, but never hastens.
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(greeted().await?);
    }
    let best = times.iter().min().context("no time")?;
    ensure!(*best >= AT_LEAST, "nothing was waited for: {times:?}");
    ensure!(*best < AT_MOST, "the client was kept waiting: {times:?}");
    Ok(())
}

async fn tls(world: Arc<World>) -> Outcome {
    let parts = [
        member("client"),
        member("server"),
        service(
            "server",
            "{name: secret, port: 7000}, {name: http-web, port: 8443}",
        ),
        allow_http("server", &["client"]),
        allow_tcp("server", &["client"], "7000, 8443"),
    ];
    let scene = Scene::open(world, "detect-tls", &parts).await?;
    let pair = Pair::new("server.example")?;
    for port in [7000, 8443] {
        scene.serve(pair.clone().echo(scene.listen("server", port).await?));
        let to = scene.service("server", port)?;
        let through = || async {
            pair.exchange(scene.dial("client", to).await?, b"between us")
                .await
        };
        scene
            .eventually(&format!("the client's TLS reaches port {port}"), through)
            .await?;
    }
    Ok(())
}

async fn undeclared(world: Arc<World>, namespace: &str) -> anyhow::Result<Scene> {
    let parts = [
        member("client"),
        member("server"),
        service("server", "{name: anything, port: 7000}"),
        allow_tcp("server", &["client"], "7000"),
    ];
    Scene::open(world, namespace, &parts).await
}
