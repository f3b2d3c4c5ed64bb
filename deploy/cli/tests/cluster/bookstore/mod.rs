//! The bookstore, its manifests as they are, through the demo's eight phases: one test, for each phase stands on the
//! ones before.

mod counts;
mod phases;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use serde_json::json;

use crate::{
    Outcome, Tests,
    scene::{Scene, apply, documents},
    world::{SYSTEM, World},
};

macro_rules! files {
    ($directory:literal: $($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../../../../demo/", $directory, "/", $name, ".yaml")))),+]
    };
}

const APPLICATION: [(&str, &str); 7] = files!("manifests":
    "namespaces", "mesh-config", "mysql", "bookwarehouse", "bookstore", "bookbuyer", "bookthief",
);
const POLICIES: [(&str, &str); 5] = files!("policies":
    "routes", "allow-bookbuyer", "allow-bookthief", "allow-warehouse", "split",
);
/// The program in the pods.
const PROGRAM: &str = "weir-bookstore";
/// What is calmer here than in the demo: the programs are slow ones, built for debugging, and share two cores with a
/// whole cluster.
const CALMER: [(&str, &str); 2] = [
    (
        "serviceCertValidityDuration: 30s",
        "serviceCertValidityDuration: 90s",
    ),
    ("--rate=100", "--rate=40"),
];
/// MeshConfig's own validity of certificates.
const VALIDITY: &str = "24h";

/// Adds the test.
pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.alone("bookstore::the_eight_phases", eight_phases);
}

/// The bookstore's namespaces.
struct Bookstore {
    world: Arc<World>,
    buyer: Scene,
    thief: Scene,
    store: Scene,
    warehouse: Scene,
}

async fn eight_phases(world: Arc<World>) -> Outcome {
    let bookstore = Bookstore::open(&world).await?;
    let outcome = phases::run(&bookstore).await;
    let validity = json!({"spec": {"certificate": {"serviceCertValidityDuration": VALIDITY}}});
    world.configure(&validity).await?;
    outcome
}

impl Bookstore {
    async fn open(world: &Arc<World>) -> anyhow::Result<Self> {
        for (name, text) in APPLICATION {
            let calmer = CALMER
                .iter()
                .fold(text.to_owned(), |text, (demo, here)| text.replace(demo, here));
            apply_all(world, name, &calmer).await?;
        }
        let bookstore = Self {
            buyer: Scene::of(world, "bookbuyer"),
            thief: Scene::of(world, "bookthief"),
            store: Scene::of(world, "bookstore"),
            warehouse: Scene::of(world, "bookwarehouse"),
            world: Arc::clone(world),
        };
        bookstore
            .warehouse
            .ready(&["app=mysql", "app=bookwarehouse"])
            .await?;
        bookstore.store.ready(&["app=bookstore"]).await?;
        bookstore.buyer.ready(&["app=bookbuyer"]).await?;
        bookstore.thief.ready(&["app=bookthief"]).await?;
        Ok(bookstore)
    }

    fn scenes(&self) -> [&Scene; 4] {
        [&self.buyer, &self.thief, &self.store, &self.warehouse]
    }

    /// Applies one of the demo's policies.
    async fn apply(&self, policy: &str) -> anyhow::Result<()> {
        let found = POLICIES.iter().find(|(name, _)| *name == policy);
        let (name, text) = found.with_context(|| format!("no policy {policy}"))?;
        apply_all(&self.world, name, text).await
    }

    /// Shares the bookstore's traffic out.
    async fn split(&self, v1: u32, v2: u32) -> anyhow::Result<()> {
        let mut weights = [v1, v2].into_iter();
        let (_, text) = POLICIES.last().context("no policies")?;
        let lines = text
            .lines()
            .map(|line| match line.trim_start().starts_with("weight:") {
                true => format!("      weight: {}\n", weights.next().unwrap_or(0)),
                false => format!("{line}\n"),
            });
        apply_all(&self.world, "split", &lines.collect::<String>()).await
    }

    /// A sample of every sidecar, summed up for each pod.
    async fn each_sidecar(&self, metric: &str) -> anyhow::Result<Vec<(String, f64)>> {
        let mut values = Vec::new();
        for scene in self.scenes() {
            for pod in scene.list("app").await? {
                let name = pod.metadata.name.context("a pod without a name")?;
                let value = scene.scrape(&name).await?.sum(metric);
                values.push((name, value));
            }
        }
        Ok(values)
    }
}

async fn apply_all(world: &Arc<World>, name: &str, text: &str) -> anyhow::Result<()> {
    for object in documents(text)? {
        let applied = apply(&world.client(), object, SYSTEM).await;
        applied.with_context(|| format!("cannot apply {name}"))?;
    }
    Ok(())
}

/// This many purchases, or refusals, in a row are taken for a state.
const SETTLED: u64 = 20;
/// How long a customer may take for a run of attempts.
const ATTEMPTS: Duration = Duration::from_secs(30);
