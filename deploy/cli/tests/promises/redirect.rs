//! Which traffic goes through the sidecars.

use std::{net::SocketAddr, sync::Arc};

use anyhow::ensure;
use tokio::net::UdpSocket;

use crate::{
    Outcome, Tests, client,
    manifest::{allow_tcp, annotated, member, outsider, service},
    scene::{EXCHANGE, Scene},
    server,
    world::{World, within},
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add("redirect::what_a_pod_sends_goes_through_its_sidecar", outbound);
    tests.add("redirect::what_a_pod_receives_goes_through_its_sidecar", inbound);
    tests.add("redirect::excluded_ports_are_untouched", ports);
    tests.add("redirect::excluded_addresses_are_untouched", addresses);
    tests.add("redirect::udp_is_untouched", udp);
}

/// Without egress a sidecar closes connections to places that the mesh does not know: that is how it shows.
async fn outbound(world: Arc<World>) -> Outcome {
    let scene = Scene::open(world, "redirect-outbound", &[member("client"), outsider("far")]).await?;
    scene.serve(server::echo(scene.listen("far", 9000).await?));
    for ip in scene.pod_ips("far")? {
        let to = SocketAddr::new(ip, 9000);
        client::refused(scene.dial("client", to).await, b"hello").await?;
        // From the other direction nothing is in the way.
        client::echo(&mut scene.dial("far", to).await?, b"hello").await?;
    }
    Ok(())
}

async fn inbound(world: Arc<World>) -> Outcome {
    let parts = [
        member("server"),
        member("client"),
        outsider("stranger"),
        service("server", "{name: tcp-echo, port: 9000}"),
        allow_tcp("server", &["client"], "9000"),
    ];
    let scene = Scene::open(world, "redirect-inbound", &parts).await?;
    scene.serve(server::echo(scene.listen("server", 9000).await?));
    for ip in scene.cluster_ips("server")? {
        let to = SocketAddr::new(ip, 9000);
        let through = || async { client::echo(&mut scene.dial("client", to).await?, b"hello").await };
        scene.eventually("a member gets through", through).await?;
    }
    for ip in scene.pod_ips("server")? {
        let direct = scene.dial("stranger", SocketAddr::new(ip, 9000)).await;
        client::refused(direct, b"hello").await?;
    }
    Ok(())
}

async fn ports(world: Arc<World>) -> Outcome {
    // More than iptables' multiport takes, and ranges.
    let outbound = (9001..9021)
        .map(|port| port.to_string())
        .collect::<Vec<_>>()
        .join(",");
    let parts = [
        annotated(
            "client",
            &format!(
                "openservicemesh.io/outbound-port-exclusion-list: '{outbound},9100-9110', \
                 openservicemesh.io/inbound-port-exclusion-list: '9001,9105'"
            ),
        ),
        outsider("far"),
    ];
    let scene = Scene::open(world, "redirect-ports", &parts).await?;
    for port in [9000, 9001, 9020, 9105] {
        scene.serve(server::echo(scene.listen("far", port).await?));
        scene.serve(server::echo(scene.listen("client", port).await?));
    }
    for (from, to, excluded, not) in [
        ("client", "far", vec![9001, 9020, 9105], 9000),
        ("far", "client", vec![9001, 9105], 9020),
    ] {
        for ip in scene.pod_ips(to)? {
            for port in &excluded {
                let mut stream = scene.dial(from, SocketAddr::new(ip, *port)).await?;
                client::echo(&mut stream, b"untouched").await?;
            }
            client::refused(scene.dial(from, SocketAddr::new(ip, not)).await, b"hello").await?;
        }
    }
    Ok(())
}

async fn addresses(world: Arc<World>) -> Outcome {
    let scene = Scene::open(
        world,
        "redirect-addresses",
        &[outsider("far"), outsider("farther")],
    )
    .await?;
    let excluded = scene.pod_ips("far")?;
    let ranges: Vec<String> = excluded
        .iter()
        .map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }))
        .collect();
    let annotation = format!(
        "openservicemesh.io/outbound-ip-range-exclusion-list: '{}'",
        ranges.join(",")
    );
    scene.apply("client", &[annotated("client", &annotation)])?;
    scene.ready().await?;
    for name in ["far", "farther"] {
        scene.serve(server::echo(scene.listen(name, 9000).await?));
    }
    for ip in excluded {
        let mut stream = scene.dial("client", SocketAddr::new(ip, 9000)).await?;
        client::echo(&mut stream, b"untouched").await?;
    }
    for ip in scene.pod_ips("farther")? {
        client::refused(scene.dial("client", SocketAddr::new(ip, 9000)).await, b"hello").await?;
    }
    Ok(())
}

async fn udp(world: Arc<World>) -> Outcome {
    let scene = Scene::open(world, "redirect-udp", &[member("client"), member("server")]).await?;
    let server = scene.udp("server", 5300).await?;
    let client = scene.udp("client", 0).await?;
    for ip in scene.pod_ips("server")? {
        // An IPv6 socket speaks IPv4 through mapped addresses.
        let ip = match ip {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
            v6 => v6,
        };
        client.send_to(b"ping", (ip, 5300)).await?;
        let (text, from) = receive(&server).await?;
        ensure!(text == b"ping", "{text:?} arrived");
        let own = scene.pod_ips("client")?;
        ensure!(
            own.contains(&from.ip().to_canonical()),
            "it came from {from}, not from the client"
        );
        server.send_to(b"pong", from).await?;
        let (text, from) = receive(&client).await?;
        ensure!(
            text == b"pong" && from == SocketAddr::new(ip, 5300),
            "{text:?} came back from {from}"
        );
    }
    Ok(())
}

async fn receive(socket: &UdpSocket) -> anyhow::Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 64];
    let (count, from) = within(EXCHANGE, "a datagram", socket.recv_from(&mut buffer)).await??;
    buffer.truncate(count);
    Ok((buffer, from))
}
