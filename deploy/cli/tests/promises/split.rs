//! Traffic shared out by weight.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::ensure;
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::Empty;
use hyper::{Request, body::Bytes};

use crate::{
    Outcome, Tests,
    client::{self, Http1, Reply},
    manifest::{allow_http, allow_tcp, member, service, service_of, split},
    scene::Scene,
    server,
    world::World,
};

/// Requests or connections that are counted.
const COUNT: usize = 1000;
/// How far a share may be from its weight, in points of 100.
const POINTS: f64 = 3.0;
const BACKENDS: [&str; 3] = ["v1", "v2", "v3"];

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add("split::http_requests_follow_the_weights_and_zero_gets_none", http);
    tests.add(
        "split::tcp_connections_follow_the_weights_and_zero_gets_none",
        tcp,
    );
    tests.add("split::an_apex_may_be_its_own_backend", recursive);
}

fn parts(port: &str) -> Vec<String> {
    let mut parts = vec![member("client"), service_of("apex", "app: v1", port)];
    for backend in BACKENDS {
        parts.extend([member(backend), service(backend, port)]);
    }
    parts
}

/// An error unless each backend has its share.
fn compare(seen: &BTreeMap<&str, usize>, weights: &[(&str, u32)]) -> Outcome {
    let total: usize = seen.values().sum();
    ensure!(total == COUNT, "{total} of {COUNT} arrived: {seen:?}");
    let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
    for (backend, weight) in weights {
        let count = seen.get(backend).copied().unwrap_or_default();
        let (got, wanted) = (percent(count, total), f64::from(*weight) * 100.0 / f64::from(sum));
        ensure!(*weight != 0 || count == 0, "weight 0 got {count}: {seen:?}");
        ensure!(
            (got - wanted).abs() <= POINTS,
            "{backend} got {got} % instead of {wanted} %: {seen:?}"
        );
    }
    Ok(())
}

fn percent(part: usize, whole: usize) -> f64 {
    let exact = |count| u32::try_from(count).map_or(f64::NAN, f64::from);
    exact(part) * 100.0 / exact(whole)
}

async fn http(world: Arc<World>) -> Outcome {
    let scene = Scene::open(world, "split-http", &parts("{name: http-web, port: 8080}")).await?;
    for backend in BACKENDS {
        scene.serve(server::http(scene.listen(backend, 8080).await?, backend));
        scene.apply(backend, &[allow_http(backend, &["client"])])?;
    }
    for weights in [
        [("v1", 50), ("v2", 50), ("v3", 0)],
        [("v1", 10), ("v2", 0), ("v3", 90)],
    ] {
        follows(&scene, &weights).await?;
    }
    Ok(())
}

/// Applies weights and counts who answers.
async fn follows(scene: &Scene, weights: &[(&str, u32)]) -> Outcome {
    scene.apply("split", &[split("apex", weights)])?;
    let to = scene.service("apex", 8080)?;
    let heavy: Vec<&str> = weights
        .iter()
        .filter(|(_, weight)| *weight > 0)
        .map(|(name, _)| *name)
        .collect();
    // In force when every backend with a weight has answered, and in a row nobody else.
    for backend in &heavy {
        let in_force = || async {
            let reply = scene.get("client", to, "/").await?.expect(200)?;
            ensure!(reply.body == *backend, "{} answers", reply.body);
            Ok(())
        };
        scene.eventually(&format!("{backend} answers"), in_force).await?;
    }
    let mut connection = Http1::new(scene.dial("client", to).await?).await?;
    let mut seen = BTreeMap::new();
    for _ in 0..COUNT {
        let request = Request::get("/")
            .header("host", "apex")
            .body(Empty::<Bytes>::new())?;
        let reply = Reply::read(connection.send(request).await?).await?.expect(200)?;
        let backend = weights
            .iter()
            .find(|(name, _)| *name == reply.body)
            .map_or("?", |(name, _)| name);
        *seen.entry(backend).or_default() += 1;
    }
    compare(&seen, weights)
}

async fn tcp(world: Arc<World>) -> Outcome {
    let scene = Scene::open(world, "split-tcp", &parts("{name: tcp-count, port: 7000}")).await?;
    let mut counters = BTreeMap::new();
    for backend in BACKENDS {
        let counter = Arc::new(AtomicUsize::new(0));
        scene.serve(server::count(
            scene.listen(backend, 7000).await?,
            Arc::clone(&counter),
        ));
        scene.apply(backend, &[allow_tcp(backend, &["client"], "7000")])?;
        counters.insert(backend, counter);
    }
    let weights = [("v1", 70), ("v2", 30), ("v3", 0)];
    scene.apply("split", &[split("apex", &weights)])?;
    let to = scene.service("apex", 7000)?;
    let one = || async { client::echo(&mut scene.dial("client", to).await?, b"x").await };
    let read = || {
        counters
            .iter()
            .map(|(name, counter)| (*name, counter.load(Ordering::Relaxed)))
            .collect::<BTreeMap<_, _>>()
    };
    let in_force = || async {
        one().await?;
        // Also that both let the client in.
        let seen = read();
        let reached = |backend| seen.get(backend).is_some_and(|count| *count > 0);
        ensure!(
            reached("v1") && reached("v2"),
            "not both were reached yet: {seen:?}"
        );
        Ok(())
    };
    scene.eventually("the split is in force", in_force).await?;
    let before = read();
    stream::iter(0..COUNT)
        .map(|_| one())
        .buffer_unordered(8)
        .try_collect::<Vec<()>>()
        .await?;
    let seen = read()
        .into_iter()
        .map(|(name, count)| (name, count - before[name]))
        .collect();
    compare(&seen, &weights)
}

/// All of an apex' traffic to itself, and then a share of it.
async fn recursive(world: Arc<World>) -> Outcome {
    let all = parts("{name: http-web, port: 8080}");
    let scene = Scene::open(world, "split-recursive", &all).await?;
    for backend in BACKENDS {
        scene.serve(server::http(scene.listen(backend, 8080).await?, backend));
        scene.apply(backend, &[allow_http(backend, &["client"])])?;
    }
    for weights in [vec![("apex", 100)], vec![("apex", 60), ("v2", 40)]] {
        scene.apply("split", &[split("apex", &weights)])?;
        let to = scene.service("apex", 8080)?;
        for backend in ["v1", "v2"].iter().take(weights.len()) {
            let answers = || async {
                let reply = scene.get("client", to, "/").await?.expect(200)?;
                ensure!(reply.body == *backend, "{} answers", reply.body);
                Ok(())
            };
            scene.eventually(&format!("{backend} answers"), answers).await?;
        }
    }
    Ok(())
}
