//! Pods that are known by name.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::ensure;

use super::{
    client::{fetch, gets, tell},
    manifest::{App, allow_http, headless},
};
use crate::{Outcome, Tests, scene::Scene, world::World};

const PORTS: &str = "{name: http-peer, port: 8080}, {name: tcp-peer, port: 9000}";

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.permissive("stateful::peers_reach_each_other_by_name", peers);
    tests.enforcing("stateful::headless_client_and_server", both_headless);
}

/// A StatefulSet whose pods ask each other, each by its own name, and itself.
async fn peers(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "stateful").await?;
    let peer = App::new("peer", "mirror --port=8080");
    // The second container of each pod speaks something else.
    let second = "{name: echo, image: 'weir-bookstore:latest', imagePullPolicy: IfNotPresent, args: [echo, '--port=9000']}";
    let set = format!(
        "---\n{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: peer}}, spec: {{replicas: 3, serviceName: peers, \
         podManagementPolicy: Parallel, selector: {{matchLabels: {{app: peer}}}}, template: {{{}}}}}}}\n",
        peer.template()
            .replace("containers: [", &format!("containers: [{second}, "))
    );
    scene
        .apply(&(peer.identity() + &headless("peers", "peer", PORTS) + &set))
        .await?;
    scene.replicas("app=peer", 3).await?;
    for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 1)] {
        let from = format!("peer-{from}");
        let to = format!("peer-{to}");
        let url = format!("http://{to}.peers.stateful.svc.cluster.local:8080/");
        for answer in gets(&scene, &from, &url, 200).await? {
            ensure!(answer.seen()?.pod == to, "{from} asked {to}: {answer:?}");
        }
        let said = || async { tell(&scene, &from, &format!("{to}.peers:9000"), "hello", 0).await };
        let said = scene.eventually("the echo of a peer", said).await?;
        ensure!(said == "hello", "{from} told {to}, which said {said:?}");
    }
    Ok(())
}

/// Neither has an address of its own; policy counts as ever.
async fn both_headless(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "headless").await?;
    let web = "{name: http-web, port: 8080}";
    let server = App {
        replicas: 2,
        ..App::new("server", "mirror --port=8080")
    };
    let objects = [
        server.deployment(),
        headless("server", "server", web),
        App::client("client").deployment(),
        headless("client", "client", web),
        App::client("other").deployment(),
        allow_http("headless", "server", &["client"]),
    ];
    scene.apply(&objects.concat()).await?;
    let pods = scene.replicas("app=server", 2).await?;
    let client = scene.pod("app=client").await?;
    gets(&scene, &client, "http://server:8080/", 200).await?;
    // Each by its address, as a client that asks DNS itself does.
    let mut seen = BTreeSet::new();
    for pod in &pods {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        let url = format!("http://{}:8080/", ip.unwrap_or_default());
        for answer in fetch(&scene, &client, &url, 2).await? {
            seen.insert(answer.seen()?.pod);
        }
    }
    ensure!(seen.len() == 2, "{seen:?}");
    let other = scene.pod("app=other").await?;
    gets(&scene, &other, "http://server:8080/", 403).await?;
    Ok(())
}
