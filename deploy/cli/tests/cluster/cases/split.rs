//! TrafficSplits: every backend gets its share, whatever is spoken.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::ensure;

use super::{
    client::{fetch, gets, tell},
    manifest::{App, allow_http, allow_tcp, service, split},
};
use crate::{Outcome, Tests, scene::Scene, world::World};

const WEB: &str = "{name: http-web, port: 8080}";
const TCP: &str = "{name: tcp-echo, port: 9000}";
/// Enough for each pod of six to be chosen, but for one run in many millions.
const MANY: u32 = 120;
const BACKENDS: [&str; 3] = ["v1", "v2", "v3"];

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.enforcing("split::http_reaches_every_pod_of_every_backend", http);
    tests.enforcing("split::tcp_with_one_account_for_all", tcp);
    tests.permissive("split::a_service_may_be_its_own_backend", recursive);
}

async fn http(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "split-http").await?;
    let mut objects = service("apex", "nobody", WEB) + &split("apex", &BACKENDS);
    let args = BACKENDS.map(|name| format!("mirror --port=8080 --name={name}"));
    for (name, args) in BACKENDS.into_iter().zip(&args) {
        let backend = App {
            replicas: 2,
            ..App::new(name, args)
        };
        objects.push_str(&backend.deployment());
        objects.push_str(&service(name, name, WEB));
        objects.push_str(&allow_http("split-http", name, &["one", "two"]));
    }
    for client in ["one", "two"] {
        objects.push_str(&App::client(client).deployment());
    }
    scene.apply(&objects).await?;
    let mut pods = BTreeSet::new();
    for name in BACKENDS {
        let ready = scene.replicas(&format!("app={name}"), 2).await?;
        pods.extend(ready.into_iter().filter_map(|pod| pod.metadata.name));
    }
    for client in ["one", "two"] {
        let client = scene.pod(&format!("app={client}")).await?;
        let reached = || async {
            let mut seen = BTreeSet::new();
            for answer in fetch(&scene, &client, "http://apex:8080/", MANY).await? {
                seen.insert(answer.seen()?.pod);
            }
            ensure!(seen == pods, "of {pods:?} only {seen:?} were reached");
            Ok(())
        };
        scene
            .eventually("every pod of every backend is reached", reached)
            .await?;
        let direct = gets(&scene, &client, "http://v2:8080/", 200).await?;
        for answer in direct {
            ensure!(answer.seen()?.name == "v2", "{answer:?}");
        }
    }
    Ok(())
}

async fn tcp(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "split-tcp").await?;
    let mut objects = service("apex", "nobody", TCP) + &split("apex", &["v1", "v2"]);
    let args = ["v1", "v2"].map(|name| format!("echo --port=9000 --greeting={name}"));
    for (name, args) in ["v1", "v2"].into_iter().zip(&args) {
        let backend = App {
            account: "server",
            ..App::new(name, args)
        };
        objects.push_str(&backend.deployment());
        objects.push_str(&service(name, name, TCP));
    }
    objects.push_str(&App::client("client").deployment());
    objects.push_str(&allow_tcp("split-tcp", "server", &["client"], "9000"));
    scene.apply(&objects).await?;
    scene.ready(&["app=v1", "app=v2", "app=client"]).await?;
    let client = scene.pod("app=client").await?;
    let both = || async {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.insert(tell(&scene, &client, "apex:9000", "hello", 0).await?);
            if seen.len() == 2 {
                break;
            }
        }
        let expected = ["v1\nhello", "v2\nhello"].map(str::to_owned);
        ensure!(seen == BTreeSet::from(expected), "{seen:?}");
        Ok(())
    };
    scene.eventually("both backends answer", both).await
}

async fn recursive(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, "split-self").await?;
    let objects = [
        App::new("server", "mirror --port=8080").deployment(),
        service("server", "server", WEB),
        split("server", &["server"]),
        App::client("client").deployment(),
    ];
    scene.apply(&objects.concat()).await?;
    scene.ready(&["app=server", "app=client"]).await?;
    let client = scene.pod("app=client").await?;
    gets(&scene, &client, "http://server:8080/", 200).await?;
    Ok(())
}
