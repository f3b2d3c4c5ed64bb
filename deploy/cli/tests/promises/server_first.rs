//! Ports on which the server speaks first.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use tokio::time::Instant;

use crate::{
    Outcome, Tests, client,
    manifest::{allow_tcp, member, service},
    scene::Scene,
    server,
    world::World,
};

/// Less than the sidecars' detect timeout of 200 ms: nothing is waited for.
const AT_ONCE: Duration = Duration::from_millis(150);
const GREETING: &[u8] = b"220 ready\r\n";

pub(crate) fn tests(tests: &mut Tests<'_>) {
    for (name, port) in [
        (
            "tcp_server_first_by_name",
            "{name: tcp-server-first-mail, port: 2525}",
        ),
        (
            "tcp_server_first_by_app_protocol",
            "{name: mail, port: 2525, appProtocol: tcp-server-first}",
        ),
        ("tcp_by_name", "{name: tcp-mail, port: 2525}"),
        (
            "tcp_by_app_protocol",
            "{name: mail, port: 2525, appProtocol: tcp}",
        ),
    ] {
        tests.add(
            &format!("server_first::{name}_gets_the_greeting_at_once"),
            move |world| greeted_at_once(world, format!("first-{}", name.replace('_', "-")), port),
        );
    }
}

async fn greeted_at_once(world: Arc<World>, namespace: String, port: &'static str) -> Outcome {
    let parts = [
        member("client"),
        member("server"),
        service("server", port),
        allow_tcp("server", &["client"], "2525"),
    ];
    let scene = Scene::open(world, &namespace, &parts).await?;
    scene.serve(server::greet(scene.listen("server", 2525).await?, GREETING));
    let to = scene.service("server", 2525)?;
    let greeted = || async {
        let begun = Instant::now();
        let mut stream = scene.dial("client", to).await?;
        let greeting = client::read(&mut stream, GREETING.len()).await?;
        ensure!(greeting == GREETING, "{greeting:?} came");
        Ok((begun.elapsed(), stream))
    };
    let (_, mut stream) = scene.eventually("the greeting comes", greeted).await?;
    client::echo(&mut stream, b"EHLO client\r\n").await?;
    // The best of a few: a busy machine delays, but never hastens.
    let mut times = Vec::new();
    for _ in 0..10 {
        times.push(greeted().await?.0);
    }
    let best = times.iter().min().context("no time")?;
    ensure!(*best < AT_ONCE, "the greeting was late: {times:?}");
    Ok(())
}
