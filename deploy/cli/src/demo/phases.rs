//! The eight phases: each changes manifests as a user would, and waits for what must follow.

use std::{future::Future, time::Duration};

use anyhow::{bail, ensure};
use serde::Deserialize;
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep, timeout},
};

use super::{
    manifests,
    mesh::{App, Mesh},
    scrape::Scrape,
    sidecar::Sidecar,
};

/// How long a change may take to show. Far more than it needs: a busy machine is not a broken mesh.
const PATIENCE: Duration = Duration::from_secs(30);
/// This many purchases, or refusals, in a row are taken for a state.
const SETTLED: u64 = 20;
/// Purchases over which a split is measured.
const SPLIT_SAMPLE: u64 = 1000;
/// A share may be this far from its weight.
const SPLIT_TOLERANCE: f64 = 0.03;
/// As far as that where each request is sent by chance: 4.4 standard deviations of the sample.
const CHANCE_TOLERANCE: f64 = 0.07;

/// A phase of the demo.
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
}

/// The phases, in order.
pub(crate) const PHASES: [Phase; 8] = [
    Phase {
        name: "permissive",
        title: "open mesh: buyer and thief both buy",
    },
    Phase {
        name: "closed",
        title: "permissive mode off, no policy: both are refused",
    },
    Phase {
        name: "policy",
        title: "the buyer is allowed; the thief gets 403",
    },
    Phase {
        name: "thief",
        title: "the thief is allowed too",
    },
    Phase {
        name: "split",
        title: "weights 100/0, 50/50, 0/100: v1 and v2 follow",
    },
    Phase {
        name: "database",
        title: "the warehouse reaches MySQL, the thief does not",
    },
    Phase {
        name: "private",
        title: "every byte between pods is TLS",
    },
    Phase {
        name: "unbroken",
        title: "rotation and a controller restart: no request fails",
    },
];

/// What follows them where there is Envoy.
pub(crate) const ACCEPTED: Phase = Phase {
    name: "accepted",
    title: "Envoy took everything that the controller sent",
};

/// Runs the phase of this index and says what was seen.
pub(crate) async fn run(index: usize, mesh: &Mesh) -> anyhow::Result<String> {
    match index {
        0 => permissive(mesh).await,
        1 => closed(mesh).await,
        2 => policy(mesh).await,
        3 => thief(mesh).await,
        4 => split(mesh).await,
        5 => database(mesh).await,
        6 => private(mesh).await,
        7 => unbroken(mesh).await,
        _ => accepted(mesh).await,
    }
}

/// A customer's counters, as `/raw` gives them.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    books_bought: u64,
    books_bought_v1: u64,
    books_bought_v2: u64,
    refused: u64,
    failed: u64,
}

impl Counts {
    async fn of(mesh: &Mesh, app: App) -> anyhow::Result<Self> {
        mesh.raw(app).await
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            books_bought: self.books_bought - earlier.books_bought,
            books_bought_v1: self.books_bought_v1 - earlier.books_bought_v1,
            books_bought_v2: self.books_bought_v2 - earlier.books_bought_v2,
            refused: self.refused - earlier.refused,
            failed: self.failed - earlier.failed,
        }
    }
}

async fn permissive(mesh: &Mesh) -> anyhow::Result<String> {
    let buyer = settle(mesh, App::Bookbuyer, Outcome::Buys).await?;
    let thief = settle(mesh, App::Bookthief, Outcome::Buys).await?;
    Ok(format!("{} and {} books", buyer.books_bought, thief.books_bought))
}

async fn closed(mesh: &Mesh) -> anyhow::Result<String> {
    manifests::enforce(mesh.manifests())?;
    let buyer = settle(mesh, App::Bookbuyer, Outcome::Nothing).await?;
    let thief = settle(mesh, App::Bookthief, Outcome::Nothing).await?;
    Ok(format!(
        "{} and {} attempts, no book",
        buyer.refused + buyer.failed,
        thief.refused + thief.failed
    ))
}

async fn policy(mesh: &Mesh) -> anyhow::Result<String> {
    manifests::apply(mesh.manifests(), "routes.yaml")?;
    manifests::apply(mesh.manifests(), "allow-bookbuyer.yaml")?;
    let buyer = settle(mesh, App::Bookbuyer, Outcome::Buys).await?;
    let thief = settle(mesh, App::Bookthief, Outcome::Refused).await?;
    Ok(format!(
        "{} books; {} times 403",
        buyer.books_bought, thief.refused
    ))
}

async fn thief(mesh: &Mesh) -> anyhow::Result<String> {
    manifests::apply(mesh.manifests(), "allow-bookthief.yaml")?;
    let thief = settle(mesh, App::Bookthief, Outcome::Buys).await?;
    Ok(format!("{} books stolen", thief.books_bought))
}

async fn split(mesh: &Mesh) -> anyhow::Result<String> {
    let by_chance = mesh
        .each_sidecar()
        .await?
        .iter()
        .any(|(pod, scrape)| pod.starts_with(&App::Bookbuyer.to_string()) && Sidecar(scrape).is_envoy());
    let tolerance = match by_chance {
        true => CHANCE_TOLERANCE,
        false => SPLIT_TOLERANCE,
    };
    let mut seen = Vec::new();
    for (v1, v2, sample) in [
        (100, 0, SPLIT_SAMPLE / 4),
        (50, 50, SPLIT_SAMPLE),
        (0, 100, SPLIT_SAMPLE / 4),
    ] {
        manifests::split(mesh.manifests(), v1, v2)?;
        let want = f64::from(v1) / f64::from(v1 + v2);
        // In force once a short run of purchases looks like it; then it is measured.
        let near = |counts: Counts| (share(counts) - want).abs() <= if v1 == v2 { 0.2 } else { 0.0 };
        windows(mesh, App::Bookbuyer, SETTLED, "the split to take effect", near).await?;
        let measured = window(mesh, App::Bookbuyer, sample).await?;
        let got = share(measured);
        let exact = v1 == 0 || v2 == 0;
        let tolerance = if exact { 0.0 } else { tolerance };
        ensure!(
            (got - want).abs() <= tolerance,
            "weights {v1}/{v2}: v1 got {} and v2 {} of {sample} purchases",
            measured.books_bought_v1,
            measured.books_bought_v2
        );
        seen.push(format!("{:.0}/{:.0}", got * 100.0, (1.0 - got) * 100.0));
    }
    Ok(seen.join(", "))
}

fn share(counts: Counts) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand purchases")]
    let count = |books: u64| books as f64;
    count(counts.books_bought_v1) / count(counts.books_bought_v1 + counts.books_bought_v2).max(1.0)
}

async fn database(mesh: &Mesh) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Warehouse {
        total_books: u64,
    }
    manifests::apply(mesh.manifests(), "allow-warehouse.yaml")?;
    let total = eventually(
        "the warehouse to count books in its database",
        || async {
            let Warehouse { total_books } = mesh.raw(App::Bookwarehouse).await?;
            Ok(total_books)
        },
        |total| *total > 0,
    )
    .await?;
    let first = eventually(
        "the count to grow",
        || async {
            let Warehouse { total_books } = mesh.raw(App::Bookwarehouse).await?;
            Ok(total_books)
        },
        |now| *now > total,
    )
    .await?;

    let mut stranger = mesh.dial(App::Bookthief, App::Mysql, 3306).await?;
    let mut greeting = [0; 64];
    match timeout(PATIENCE, stranger.read(&mut greeting)).await {
        Ok(Ok(0) | Err(_)) => Ok(format!("{first} books counted; the thief was cut off")),
        Ok(Ok(bytes)) => bail!("the thief got {bytes} bytes of the database's greeting"),
        Err(_) => bail!("the thief's connection to the database was left open"),
    }
}

/// What the application says in clear, none of which may be seen between pods.
const SECRETS: [&str; 6] = [
    "buy-a-book",
    "books-bought",
    "restock-books",
    "client-app",
    "booksdemo",
    "mysql_native_password",
];

async fn private(mesh: &Mesh) -> anyhow::Result<String> {
    let capture = mesh.capture()?;
    let before = Counts::of(mesh, App::Bookbuyer).await?;
    eventually(
        "traffic to capture",
        || Counts::of(mesh, App::Bookbuyer),
        |now| now.since(before).books_bought >= 10 * SETTLED,
    )
    .await?;
    // A probe is plaintext by its nature: seeing one proves that the capture sees plaintext where there is any.
    eventually(
        "a probe in the capture",
        || async { Ok(capture.contains(b"/osm-readiness-probe/")) },
        |seen| *seen,
    )
    .await?;
    for secret in SECRETS {
        ensure!(
            !capture.contains(secret.as_bytes()),
            "{secret:?} was readable between pods"
        );
    }
    Ok(format!(
        "{} KiB captured, nothing readable",
        capture.bytes() / 1024
    ))
}

async fn unbroken(mesh: &Mesh) -> anyhow::Result<String> {
    let customers = [App::Bookbuyer, App::Bookthief];
    let mut before = Vec::new();
    for app in customers {
        before.push(Counts::of(mesh, app).await?);
    }
    let before_rotation = mesh.each_sidecar().await?;
    // What the controller counts ends with it.
    none_refused(mesh).await?;
    mesh.restart_controller().await?;
    eventually(
        "every sidecar to get a new certificate and find the controller again",
        || async {
            let now = mesh.each_sidecar().await?;
            let done = |(pod, old): (&String, &Scrape)| {
                let new = now.get(pod).map(Sidecar);
                new.is_some_and(|new| new.connected() && new.certificates() > Sidecar(old).certificates())
            };
            Ok(before_rotation.iter().all(done))
        },
        |done| *done,
    )
    .await?;
    let mut requests = 0;
    for (app, before) in customers.into_iter().zip(before) {
        let counts = Counts::of(mesh, app).await?.since(before);
        ensure!(
            counts.refused + counts.failed == 0,
            "{app}: {} refused, {} failed",
            counts.refused,
            counts.failed
        );
        requests += counts.books_bought;
    }
    ensure!(requests >= SETTLED, "only {requests} requests were made");
    Ok(format!(
        "{} certificates rotated, {requests} requests, 0 failed",
        before_rotation.len()
    ))
}

async fn accepted(mesh: &Mesh) -> anyhow::Result<String> {
    none_refused(mesh).await?;
    let (mut envoys, mut updates) = (0, 0.0);
    for (pod, scrape) in mesh.each_sidecar().await? {
        let sidecar = Sidecar(&scrape);
        if sidecar.is_envoy() {
            let (accepted, refused) = sidecar.updates();
            ensure!(
                accepted > 0.0 && refused == 0.0,
                "{pod} accepted {accepted} updates and refused {refused}"
            );
            envoys += 1;
            updates += accepted;
        }
    }
    ensure!(envoys > 0, "there is no Envoy");
    Ok(format!("{updates} updates of {envoys} Envoys, none refused"))
}

/// The controller has got no complaint about what it sent.
async fn none_refused(mesh: &Mesh) -> anyhow::Result<()> {
    let refused = mesh.controller().await?.sum("weir_xds_nacks_total");
    ensure!(
        refused == 0.0,
        "sidecars refused {refused} responses of the controller"
    );
    Ok(())
}

/// What becomes of a customer's attempts.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Buys,
    Refused,
    Nothing,
}

/// Waits until a customer's last attempts all had this outcome.
async fn settle(mesh: &Mesh, app: App, outcome: Outcome) -> anyhow::Result<Counts> {
    let all = |counts: Counts| match outcome {
        Outcome::Buys => counts.refused + counts.failed == 0,
        Outcome::Refused => counts.books_bought + counts.failed == 0,
        Outcome::Nothing => counts.books_bought == 0,
    };
    let what = match outcome {
        Outcome::Buys => format!("{app} to buy"),
        Outcome::Refused => format!("{app} to get 403"),
        Outcome::Nothing => format!("{app} to get nothing"),
    };
    windows(mesh, app, SETTLED, &what, all).await
}

/// Looks at one short run of attempts after the other until one is as wanted.
async fn windows(
    mesh: &Mesh,
    app: App,
    attempts: u64,
    what: &str,
    wanted: impl Fn(Counts) -> bool,
) -> anyhow::Result<Counts> {
    eventually(what, || window(mesh, app, attempts), |counts| wanted(*counts)).await
}

/// What came of a customer's next attempts.
async fn window(mesh: &Mesh, app: App, attempts: u64) -> anyhow::Result<Counts> {
    let before = Counts::of(mesh, app).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counts = Counts::of(mesh, app).await?.since(before);
        if counts.books_bought + counts.refused + counts.failed >= attempts {
            return Ok(counts);
        }
        ensure!(Instant::now() < deadline, "{app} makes no attempts");
        sleep(POLL).await;
    }
}

const POLL: Duration = Duration::from_millis(20);

/// Asks until the answer is as wanted; gives up with the last answer.
async fn eventually<T, F>(what: &str, ask: impl Fn() -> F, wanted: impl Fn(&T) -> bool) -> anyhow::Result<T>
where
    T: std::fmt::Debug,
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        match answer {
            Ok(answer) if wanted(&answer) => return Ok(answer),
            Ok(answer) if Instant::now() > deadline => {
                bail!("waited {PATIENCE:?} for {what}; last seen: {answer:?}")
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("waited {PATIENCE:?} for {what}")));
            }
            _ => sleep(POLL).await,
        }
    }
}
