//! Builds a snapshot from each change of the objects.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{debug, error, info, warn};

use super::{Catalog, Settings, Snapshot};
use crate::{
    endpoints::Objects,
    spec::{Diagnostic, Severity},
};

/// The longest pause after a snapshot.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the catalog measures of its work.
#[derive(Clone, Debug)]
pub struct Metrics {
    build: Histogram,
    diagnostics: Family<Severities, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Severities {
    severity: &'static str,
}

impl Metrics {
    /// Makes them and adds them to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            build: Histogram::new([0.0001, 0.001, 0.01, 0.1, 1.0, 10.0]),
            diagnostics: Family::default(),
        };
        registry.register(
            "weir_catalog_build_seconds",
            "Time to join what changed into a snapshot",
            metrics.build.clone(),
        );
        registry.register(
            "weir_manifest_diagnostics",
            "What is wrong with the manifests now, by severity",
            metrics.diagnostics.clone(),
        );
        metrics
    }

    fn found(&self, diagnostics: &[Diagnostic]) {
        for (severity, label) in [(Severity::Error, "error"), (Severity::Warning, "warning")] {
            let count = diagnostics.iter().filter(|it| it.severity == severity).count();
            let gauge = self.diagnostics.get_or_create(&Severities { severity: label });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// Snapshots of what a provider publishes, the first one made at once. They go on as long as the provider does and
/// someone listens. What is wrong with the objects is logged once, and once more that it is right again.
///
/// Objects are joined on a thread of its own, and no more than half of the time: changes that come faster are joined
/// together.
///
/// Must be called within a tokio runtime.
#[must_use]
pub fn follow(
    mut objects: watch::Receiver<Arc<Objects>>,
    settings: Settings,
    metrics: Metrics,
) -> watch::Receiver<Arc<Snapshot>> {
    let mut catalog = Catalog::new(settings.clone(), Arc::default());
    let (first, _) = join(&mut catalog, &[], &objects.borrow_and_update(), &metrics);
    metrics.found(&first.diagnostics);
    let (publish, snapshots) = watch::channel(first);
    tokio::spawn(async move {
        let mut idle = Some(catalog);
        loop {
            tokio::select! {
                () = publish.closed() => return,
                changed = objects.changed() => if changed.is_err() {
                    return;
                },
            }
            let now = objects.borrow_and_update().clone();
            let last = publish.borrow().clone();
            let metrics = metrics.clone();
            let mut catalog = idle
                .take()
                .unwrap_or_else(|| Catalog::new(settings.clone(), last.clone()));
            let joined = spawn_blocking(move || {
                let joined = join(&mut catalog, &last.diagnostics, &now, &metrics);
                (catalog, joined)
            });
            // Joining has no way to panic but a fault of ours; the last snapshot then stays, and the next one is made
            // from nothing.
            let Ok((catalog, (snapshot, took))) = joined.await else {
                error!("joining the objects failed; the last snapshot stays in force; please report it");
                continue;
            };
            idle = Some(catalog);
            debug!(generation = snapshot.generation, "the mesh changed");
            publish.send_replace(snapshot);
            sleep(took.min(LONGEST_PAUSE)).await;
        }
    });
    snapshots
}

fn join(
    catalog: &mut Catalog,
    known: &[Diagnostic],
    objects: &Objects,
    metrics: &Metrics,
) -> (Arc<Snapshot>, Duration) {
    let started = Instant::now();
    let snapshot = catalog.update(objects);
    let took = started.elapsed();
    metrics.build.observe(took.as_secs_f64());
    if known != *snapshot.diagnostics {
        report(known, &snapshot.diagnostics);
        metrics.found(&snapshot.diagnostics);
    }
    (snapshot, took)
}

/// Logs what was not there the last time.
fn report(known: &[Diagnostic], found: &[Diagnostic]) {
    // Both are in order.
    for new in found.iter().filter(|it| known.binary_search(it).is_err()) {
        match new.severity {
            Severity::Error => error!("{new}"),
            Severity::Warning => warn!("{new}"),
        }
    }
    if !known.is_empty() && found.is_empty() {
        info!("every manifest is right again");
    }
}
