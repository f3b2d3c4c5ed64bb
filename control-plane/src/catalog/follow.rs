//! Builds a snapshot from each change of the objects.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{Settings, Snapshot, build};
use crate::{
    endpoints::Objects,
    spec::{Diagnostic, Severity},
};

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
            "Time to join all objects into a snapshot",
            metrics.build.clone(),
        );
        registry.register(
            "weir_manifest_diagnostics",
            "What is wrong with the manifests now, by severity",
            metrics.diagnostics.clone(),
        );
        metrics
    }

    fn found(&self, diagnostics: &BTreeSet<Diagnostic>) {
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
/// Must be called within a tokio runtime.
#[must_use]
pub fn follow(
    mut objects: watch::Receiver<Arc<Objects>>,
    settings: Settings,
    metrics: Metrics,
) -> watch::Receiver<Arc<Snapshot>> {
    let next = move |last: Option<&Snapshot>, objects: &Objects, known: &BTreeSet<Diagnostic>| {
        let started = Instant::now();
        let (snapshot, found) = build(last, objects, &settings);
        metrics.build.observe(started.elapsed().as_secs_f64());
        let found = report(known, found);
        metrics.found(&found);
        (Arc::new(snapshot), found)
    };
    let (first, mut known) = next(None, &objects.borrow_and_update(), &BTreeSet::new());
    let (publish, snapshots) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = publish.closed() => return,
                changed = objects.changed() => if changed.is_err() {
                    return;
                },
            }
            let now = objects.borrow_and_update().clone();
            let last = publish.borrow().clone();
            let (snapshot, found) = next(Some(&last), &now, &known);
            known = found;
            debug!(generation = snapshot.generation, "the mesh changed");
            publish.send_replace(snapshot);
        }
    });
    snapshots
}

/// Logs what was not there the last time.
fn report(known: &BTreeSet<Diagnostic>, found: Vec<Diagnostic>) -> BTreeSet<Diagnostic> {
    let found: BTreeSet<Diagnostic> = found.into_iter().collect();
    for new in found.difference(known) {
        match new.severity {
            Severity::Error => error!("{new}"),
            Severity::Warning => warn!("{new}"),
        }
    }
    if !known.is_empty() && found.is_empty() {
        info!("every manifest is right again");
    }
    found
}
