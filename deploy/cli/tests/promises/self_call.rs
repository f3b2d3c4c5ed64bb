//! Pods that call themselves.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::ensure;

use crate::{
    Outcome, Tests,
    manifest::{allow_http, member, service},
    scene::Scene,
    server,
    world::World,
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "self_call::a_pod_reaches_itself_through_its_own_service",
        by_service,
    );
    tests.add("self_call::a_pod_reaches_itself_by_its_own_addresses", by_address);
}

async fn stage(world: Arc<World>, namespace: &str, policy: &[String]) -> anyhow::Result<Scene> {
    let mut parts = vec![
        member("server"),
        service("server", "{name: http-web, port: 80, targetPort: 8080}"),
    ];
    parts.extend_from_slice(policy);
    let scene = Scene::open(world, namespace, &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    Ok(scene)
}

async fn by_service(world: Arc<World>) -> Outcome {
    let scene = stage(world, "self-service", &[allow_http("server", &["server"])]).await?;
    for ip in scene.cluster_ips("server")? {
        let to = SocketAddr::new(ip, 80);
        let reached = || async { scene.get("server", to, "/").await?.expect(200) };
        let reply = scene
            .eventually(&format!("the pod reaches itself through {ip}"), reached)
            .await?;
        ensure!(
            reply.header(server::IDENTITY) == "server",
            "another server answered"
        );
    }
    Ok(())
}

/// Nothing of it concerns the mesh, so it needs no policy either.
async fn by_address(world: Arc<World>) -> Outcome {
    let scene = stage(world, "self-address", &[]).await?;
    let mut ips = scene.pod_ips("server")?;
    ips.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from(Ipv6Addr::LOCALHOST)]);
    for ip in ips {
        scene
            .get("server", SocketAddr::new(ip, 8080), "/")
            .await?
            .expect(200)?;
    }
    Ok(())
}
