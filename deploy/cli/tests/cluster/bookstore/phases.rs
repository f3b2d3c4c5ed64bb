//! The phases: each changes what a user would, and waits for what must follow.

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde::Deserialize;
use serde_json::json;
use weir_testbed::Capture;

use super::{
    Bookstore, PROGRAM, SETTLED,
    counts::{Counts, Fate, raw, settle, window},
};
use crate::world::SYSTEM;

/// Purchases over which a split is measured.
const SAMPLE: u64 = 400;
/// A share may be this far from its weight: five standard deviations.
const TOLERANCE: f64 = 0.125;
/// At most this much is recorded, in bytes.
const CAPTURED: usize = 64 << 20;
/// What the application says in clear, none of which may be seen between pods.
const SECRETS: [&str; 6] = [
    "buy-a-book",
    "books-bought",
    "restock-books",
    "client-app",
    "booksdemo",
    "mysql_native_password",
];

/// Runs all phases.
pub(super) async fn run(bookstore: &Bookstore) -> anyhow::Result<()> {
    permissive(bookstore).await.context("phase permissive")?;
    closed(bookstore).await.context("phase closed")?;
    policy(bookstore).await.context("phase policy")?;
    thief(bookstore).await.context("phase thief")?;
    split(bookstore).await.context("phase split")?;
    database(bookstore).await.context("phase database")?;
    private(bookstore).await.context("phase private")?;
    unbroken(bookstore).await.context("phase unbroken")
}

async fn permissive(bookstore: &Bookstore) -> anyhow::Result<()> {
    settle(&bookstore.buyer, Fate::Buys).await?;
    settle(&bookstore.thief, Fate::Buys).await?;
    Ok(())
}

async fn closed(bookstore: &Bookstore) -> anyhow::Result<()> {
    let traffic = json!({"traffic": {"enablePermissiveTrafficPolicyMode": false}});
    bookstore.world.configure(&json!({"spec": traffic})).await?;
    settle(&bookstore.buyer, Fate::Nothing).await?;
    settle(&bookstore.thief, Fate::Nothing).await?;
    Ok(())
}

async fn policy(bookstore: &Bookstore) -> anyhow::Result<()> {
    bookstore.apply("routes").await?;
    bookstore.apply("allow-bookbuyer").await?;
    settle(&bookstore.buyer, Fate::Buys).await?;
    settle(&bookstore.thief, Fate::Refused).await?;
    Ok(())
}

async fn thief(bookstore: &Bookstore) -> anyhow::Result<()> {
    bookstore.apply("allow-bookthief").await?;
    settle(&bookstore.thief, Fate::Buys).await?;
    Ok(())
}

async fn split(bookstore: &Bookstore) -> anyhow::Result<()> {
    for (v1, v2) in [(100, 0), (50, 50), (0, 100)] {
        bookstore.split(v1, v2).await?;
        let want = f64::from(v1) / f64::from(v1 + v2);
        let exact = v1 == 0 || v2 == 0;
        // In force once a short run of purchases looks like it; then it is measured.
        let in_force = || async {
            let counts = window(&bookstore.buyer, SETTLED).await?;
            let near = if exact { 0.0 } else { 0.2 };
            ensure!((counts.share() - want).abs() <= near, "{counts:?}");
            Ok(())
        };
        let what = format!("weights {v1}/{v2} to take effect");
        bookstore.buyer.eventually(&what, in_force).await?;
        let sample = if exact { SAMPLE / 4 } else { SAMPLE };
        let measured = window(&bookstore.buyer, sample).await?;
        let tolerance = if exact { 0.0 } else { TOLERANCE };
        ensure!(
            (measured.share() - want).abs() <= tolerance && measured.refused + measured.failed == 0,
            "weights {v1}/{v2}: {measured:?}"
        );
    }
    Ok(())
}

async fn database(bookstore: &Bookstore) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Warehouse {
        total_books: u64,
    }
    bookstore.apply("allow-warehouse").await?;
    let more_than = async |books: u64| {
        let count = || async {
            let warehouse: Warehouse = raw(&bookstore.warehouse, "bookwarehouse").await?;
            ensure!(warehouse.total_books > books, "{} books", warehouse.total_books);
            Ok(warehouse.total_books)
        };
        bookstore
            .warehouse
            .eventually("the warehouse to count books", count)
            .await
    };
    let some = more_than(0).await?;
    more_than(some).await?;

    let stranger = bookstore.thief.pod("app=bookthief").await?;
    let argv = [PROGRAM, "tell", "mysql.bookwarehouse:3306", "--hear=1"];
    let heard = bookstore.thief.exec(&stranger, "bookthief", &argv).await?;
    ensure!(
        heard.code == 1 && heard.stderr.contains("closed before"),
        "the thief was not cut off from the database: {heard:?}"
    );
    Ok(())
}

async fn private(bookstore: &Bookstore) -> anyhow::Result<()> {
    if !bookstore.world.has_node().await {
        // Nothing can be recorded on somebody else's node.
        return Ok(());
    }
    let capture = Capture::on(weir_cluster::node::BRIDGE, CAPTURED)?;
    window(&bookstore.buyer, 10 * SETTLED).await?;
    // A probe is plaintext by its nature: seeing one proves that the capture sees plaintext where there is any.
    let seen = || async {
        ensure!(
            capture.contains(b"/osm-readiness-probe/"),
            "{} bytes captured",
            capture.bytes()
        );
        Ok(())
    };
    bookstore.buyer.eventually("a probe in the capture", seen).await?;
    for secret in SECRETS {
        ensure!(
            !capture.contains(secret.as_bytes()),
            "{secret:?} was readable between pods"
        );
    }
    Ok(())
}

async fn unbroken(bookstore: &Bookstore) -> anyhow::Result<()> {
    let customers = [&bookstore.buyer, &bookstore.thief];
    let mut before = Vec::new();
    for customer in customers {
        before.push(Counts::of(customer).await?);
    }
    let rotated = bookstore.each_sidecar("weir_certificate_rotations_total").await?;
    restart_controllers(bookstore).await?;
    let renewed = || async {
        let now = bookstore.each_sidecar("weir_certificate_rotations_total").await?;
        for ((pod, old), (_, new)) in rotated.iter().zip(&now) {
            ensure!(new > old, "{pod} has the certificate that it had");
        }
        let connected = bookstore.each_sidecar("weir_xds_connected").await?;
        let lost = connected.iter().find(|(_, value)| *value != 1.0);
        ensure!(lost.is_none(), "{lost:?} has no controller");
        Ok(())
    };
    let what = "new certificates and controllers everywhere";
    bookstore.buyer.eventually(what, renewed).await?;
    for (customer, before) in customers.into_iter().zip(before) {
        let counts = Counts::of(customer).await?.since(before);
        ensure!(
            counts.refused + counts.failed == 0 && counts.books_bought >= SETTLED,
            "{}: {counts:?}",
            customer.namespace()
        );
    }
    Ok(())
}

/// As `kubectl rollout restart` does; until every controller is a new one.
async fn restart_controllers(bookstore: &Bookstore) -> anyhow::Result<()> {
    let deployments = Api::<Deployment>::namespaced(bookstore.world.client(), SYSTEM);
    let now = json!({"weir.test/restarted": format!("{:?}", std::time::SystemTime::now())});
    let change = json!({"spec": {"template": {"metadata": {"annotations": now}}}});
    let patched = deployments
        .patch("weir-controller", &PatchParams::default(), &Patch::Merge(change))
        .await?;
    let generation = patched.metadata.generation;
    let done = || async {
        let status = deployments
            .get("weir-controller")
            .await?
            .status
            .unwrap_or_default();
        let all = status.observed_generation >= generation
            && status.updated_replicas == status.replicas
            && status.ready_replicas == status.replicas;
        ensure!(all && status.unavailable_replicas.unwrap_or(0) == 0, "{status:?}");
        Ok(())
    };
    bookstore
        .buyer
        .eventually("the controllers to be replaced", done)
        .await
}
