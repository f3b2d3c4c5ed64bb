//! Upgraded connections.

use std::sync::Arc;

use anyhow::ensure;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    Outcome, Tests, client,
    manifest::{member, routes, service, target},
    scene::Scene,
    server,
    world::World,
};

/// A text frame of a client (RFC 6455 §5.2), masked, and the same frame of a server.
const FROM_CLIENT: &[u8] = b"\x81\x85\x01\x02\x03\x04igohn";
const FROM_SERVER: &[u8] = b"\x81\x05hello";

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add("websocket::frames_pass_both_ways_after_the_upgrade", both_ways);
    tests.add("websocket::a_denied_path_is_answered_with_403", denied);
}

async fn stage(world: Arc<World>, namespace: &str) -> anyhow::Result<Scene> {
    let parts = [
        member("client"),
        member("other"),
        member("server"),
        service("server", "{name: http-chat, port: 8080}"),
        routes(
            "chat",
            "{name: open, pathRegex: '/open', methods: [GET]}, {name: closed, pathRegex: '/closed', methods: [GET]}",
        ),
        target("server", &["client"], "HTTPRouteGroup", "chat", "open"),
        target("server", &["other"], "HTTPRouteGroup", "chat", "closed"),
    ];
    let scene = Scene::open(world, namespace, &parts).await?;
    let listener = scene.listen("server", 8080).await?;
    scene.serve(server::each(listener, |stream| async {
        let _client_left = chat(stream).await;
    }));
    Ok(scene)
}

/// Upgrades, speaks first, and answers one frame.
async fn chat(mut stream: TcpStream) -> Outcome {
    let head = client::head(&mut stream).await?.to_ascii_lowercase();
    ensure!(
        head.contains("upgrade: websocket") && head.contains("connection: upgrade"),
        "no upgrade"
    );
    // The frame follows so closely that it may arrive in one piece with the head.
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    client::write(&mut stream, &[&answer[..], FROM_SERVER].concat()).await?;
    while client::read(&mut stream, FROM_CLIENT.len()).await? == FROM_CLIENT {
        client::write(&mut stream, FROM_SERVER).await?;
    }
    Ok(stream.shutdown().await?)
}

async fn upgrade(scene: &Scene, path: &str) -> anyhow::Result<(String, TcpStream)> {
    let mut stream = scene.dial("client", scene.service("server", 8080)?).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: server\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    client::write(&mut stream, request.as_bytes()).await?;
    let head = client::head(&mut stream).await?;
    Ok((head, stream))
}

async fn both_ways(world: Arc<World>) -> Outcome {
    let scene = stage(world, "websocket-open").await?;
    let upgraded = || async {
        let (head, stream) = upgrade(&scene, "/open").await?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "the answer is {head}");
        Ok((head, stream))
    };
    let (head, mut stream) = scene.eventually("the upgrade is agreed on", upgraded).await?;
    ensure!(
        head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "the server's key is gone: {head}"
    );
    for _ in 0..100 {
        let frame = client::read(&mut stream, FROM_SERVER.len()).await?;
        ensure!(frame == FROM_SERVER, "{frame:?} came");
        client::write(&mut stream, FROM_CLIENT).await?;
    }
    Ok(())
}

async fn denied(world: Arc<World>) -> Outcome {
    let scene = stage(world, "websocket-denied").await?;
    let refused = || async {
        let (head, _) = upgrade(&scene, "/closed").await?;
        ensure!(head.starts_with("HTTP/1.1 403 "), "the answer is {head}");
        Ok(head)
    };
    let head = scene.eventually("the upgrade is refused", refused).await?;
    ensure!(head.contains("rbac_request"), "no reason: {head}");
    Ok(())
}
