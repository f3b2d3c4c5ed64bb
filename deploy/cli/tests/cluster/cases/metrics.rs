//! What sidecars show to Prometheus.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::ensure;

use super::{
    client::{fetch, gets},
    manifest::{App, allow_http, service},
};
use crate::{Outcome, Tests, scene::Scene, world::World};

const CALLS: u32 = 5;
const SPACE: &str = "metrics";

pub(super) fn tests(tests: &mut Tests<'_>) {
    tests.enforcing("metrics::calls_are_counted_with_exact_labels", counted);
}

async fn counted(world: Arc<World>) -> Outcome {
    let scene = Scene::open(&world, SPACE).await?;
    let objects = [
        App::new("server", "mirror --port=8080").deployment(),
        service("server", "server", "{name: http-web, port: 8080}"),
        App::client("client").deployment(),
        App::client("first").deployment(),
        allow_http(SPACE, "server", &["client", "first"]),
    ];
    scene.apply(&objects.concat()).await?;
    scene.ready(&["app=server", "app=client", "app=first"]).await?;
    let [server, client, first] = ["server", "client", "first"].map(|app| format!("app={app}"));
    let (server, client) = (scene.pod(&server).await?, scene.pod(&client).await?);
    // The way is open once another has been served; the client's own counts begin then.
    let first = scene.pod(&first).await?;
    gets(&scene, &first, "http://server:8080/", 200).await?;
    let answers = fetch(&scene, &client, "http://server:8080/", CALLS).await?;
    ensure!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");

    let between = [
        ("source_namespace", SPACE),
        ("source_kind", "Deployment"),
        ("source_name", "client"),
        ("source_pod", &client),
        ("destination_namespace", SPACE),
        ("destination_kind", "Deployment"),
        ("destination_name", "server"),
        ("destination_pod", &server),
    ];
    let labels = |more: (&str, &str)| -> BTreeMap<String, String> {
        let all = between.iter().chain([&more]);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let scrape = scene.scrape(&client).await?;
    let expected = [
        ("osm_request_total", labels(("response_code", "200"))),
        ("osm_request_duration_ms_bucket", labels(("le", "+Inf"))),
    ];
    for (metric, labels) in expected {
        let found: Vec<_> = scrape
            .of(metric)
            .filter(|sample| sample.labels == labels)
            .collect();
        ensure!(
            found.len() == 1 && (found[0].value - f64::from(CALLS)).abs() < f64::EPSILON,
            "{metric} {labels:?} is {found:?} of {:?}",
            scrape.of(metric).collect::<Vec<_>>()
        );
    }
    Ok(())
}
