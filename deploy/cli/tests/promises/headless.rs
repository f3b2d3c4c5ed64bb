//! Services without a ClusterIP.

use std::{net::SocketAddr, sync::Arc};

use anyhow::ensure;

use crate::{
    Outcome, Tests, client,
    manifest::{allow_http, headless, member, outsider, pod},
    scene::Scene,
    server,
    world::World,
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "headless::a_pod_s_own_address_is_reached_by_mutual_tls",
        own_addresses,
    );
}

async fn own_addresses(world: Arc<World>) -> Outcome {
    let alive = "{name: app, image: none, command: [sleep, infinity]}";
    let parts = [
        member("client"),
        outsider("stranger"),
        pod("one", "db", "", alive, "[]"),
        pod("two", "db", "", alive, "[]"),
        headless("db", "{name: http-db, port: 8080}"),
        allow_http("one", &["client"]),
        allow_http("two", &["client"]),
    ];
    let scene = Scene::open(world, "headless", &parts).await?;
    let servers = ["one", "two"];
    for name in servers {
        scene.serve(server::http(scene.listen(name, 8080).await?, name));
    }
    for name in servers {
        for ip in scene.pod_ips(name)? {
            let to = SocketAddr::new(ip, 8080);
            let reached = || async { scene.get("client", to, "/").await?.expect(200) };
            let reply = scene
                .eventually(&format!("{name} is reached at {ip}"), reached)
                .await?;
            ensure!(reply.body == name, "{} answers instead of {name}", reply.body);
            // Open only to those who prove who they are.
            let plain = scene.dial("stranger", to).await;
            client::refused(plain, b"GET / HTTP/1.1\r\nHost: db\r\n\r\n").await?;
        }
    }
    Ok(())
}
