//! Builds a snapshot from each change of the objects.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{Settings, Snapshot, build};
use crate::{
    endpoints::Objects,
    spec::{Diagnostic, Severity},
};

/// Snapshots of what a provider publishes, the first one made at once. They go on as long as the provider does and
/// someone listens. What is wrong with the objects is logged once, and once more that it is right again.
///
/// Must be called within a tokio runtime.
#[must_use]
pub fn follow(
    mut objects: watch::Receiver<Arc<Objects>>,
    settings: Settings,
) -> watch::Receiver<Arc<Snapshot>> {
    let (first, found) = build(None, &objects.borrow_and_update(), &settings);
    let mut known = report(&BTreeSet::new(), found);
    let (publish, snapshots) = watch::channel(Arc::new(first));
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
            let (snapshot, found) = build(Some(&last), &now, &settings);
            known = report(&known, found);
            debug!(generation = snapshot.generation, "the mesh changed");
            publish.send_replace(Arc::new(snapshot));
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
