//! IPv6 beside IPv4.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, ensure};

use crate::{
    Outcome, Tests, client,
    manifest::{allow_http, allow_tcp, member, outsider, service},
    scene::Scene,
    server,
    world::World,
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "ipv6::a_dual_stack_service_is_reached_over_ipv6_by_mutual_tls",
        dual_stack,
    );
}

async fn dual_stack(world: Arc<World>) -> Outcome {
    let parts = [
        member("client"),
        member("server"),
        outsider("stranger"),
        service(
            "server",
            "{name: http-web, port: 80, targetPort: 8080}, {name: tcp-echo, port: 7000}",
        ),
        allow_http("server", &["client"]),
        allow_tcp("server", &["client"], "7000"),
    ];
    let scene = Scene::open(world, "ipv6", &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    scene.serve(server::echo(scene.listen("server", 7000).await?));
    let v6 = scene
        .cluster_ips("server")?
        .into_iter()
        .find(std::net::IpAddr::is_ipv6);
    let v6 = v6.context("the Service has no IPv6 address")?;
    let reached = || async {
        scene
            .get("client", SocketAddr::new(v6, 80), "/")
            .await?
            .expect(200)
    };
    let reply = scene
        .eventually("the Service is reached over IPv6", reached)
        .await?;
    ensure!(
        reply.header(server::IDENTITY) == "server",
        "another server answered"
    );
    let through = || async {
        client::echo(
            &mut scene.dial("client", SocketAddr::new(v6, 7000)).await?,
            b"hello",
        )
        .await
    };
    scene.eventually("TCP passes over IPv6", through).await?;
    // Whoever is let in has proved who it is: without that the same addresses are closed.
    let own = scene
        .pod_ips("server")?
        .into_iter()
        .find(std::net::IpAddr::is_ipv6);
    let own = own.context("the pod has no IPv6 address")?;
    for port in [7000, 8080] {
        let plain = scene.dial("stranger", SocketAddr::new(own, port)).await;
        client::refused(plain, b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await?;
    }
    Ok(())
}
