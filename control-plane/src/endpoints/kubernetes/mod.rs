//! The Kubernetes provider: objects watched at an API server.
//!
//! Each kind has a watch of its own, which outlives whatever becomes of the API server; what it finds goes to one task,
//! which keeps the last good version of each object and publishes a change at once, those that come within 20 ms of it
//! together after them.
//! As long as the API server is away, the last state stays.

mod contact;
mod item;
mod kinds;
mod list;
mod metrics;
mod state;
#[cfg(test)]
mod tests;
mod trim;
mod watch;

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use tokio::{
    sync::{mpsc, watch as latest},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use list::{ListError, list};
pub use metrics::KubernetesMetrics;

use self::{
    contact::Contact,
    kinds::KINDS,
    state::{Effect, State},
    watch::{Change, Watch, What},
};
use super::{Objects, Provider};
use crate::spec;

/// Between two publications.
const PAUSE: Duration = Duration::from_millis(20);
/// Changes without pause are published all the same.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Changes that wait to be taken in. Beyond them the watches wait, and the API server with them.
const WAITING: usize = 256;

/// What the provider is told once, at start.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// Namespaces labelled with this name belong to the mesh.
    pub mesh_name: String,
    /// Namespace of the control plane: MeshConfig and MeshRootCertificates are read there only.
    pub namespace: String,
    /// What it counts.
    pub metrics: KubernetesMetrics,
}

/// A policy object of a cluster, in force or not: what a status is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// `group/version` it is watched in.
    pub api_version: &'static str,
    /// The kind's name in addresses, such as `traffictargets`.
    pub plural: &'static str,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`: grows with each change of the spec.
    pub generation: i64,
    /// The condition `Accepted` of its status, as it is now.
    pub accepted: Option<Condition>,
}

/// The Kubernetes provider. Dropping it ends the watches.
#[derive(Debug)]
pub struct Kubernetes {
    objects: latest::Receiver<Arc<Objects>>,
    synced: latest::Receiver<bool>,
    stop: CancellationToken,
}

impl Kubernetes {
    /// Starts watching and goes on until told to stop, whatever becomes of the API server. Publishes nothing before
    /// every kind was listed once.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn start(client: Client, options: KubernetesOptions, stop: &CancellationToken) -> Self {
        let stop = stop.child_token();
        let (publish, objects) = latest::channel(Arc::new(Objects::default()));
        let (tell_synced, synced) = latest::channel(false);
        let (changes, incoming) = mpsc::channel(WAITING);
        let outage = Arc::default();
        for kind in &KINDS {
            let contact = Contact::new(kind, &outage);
            options.metrics.watching(contact.clone());
            let watch = Watch::new(&client, contact, &options.namespace, changes.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(watch.run()));
        }
        let gather = Gather {
            state: State::default(),
            incoming,
            options,
            publish,
            synced: tell_synced,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(gather.run()));
        Self {
            objects,
            synced,
            stop,
        }
    }

    /// Waits until every kind was listed once, which is when the first objects are published. `false`: told to stop
    /// before.
    pub async fn synced(&self) -> bool {
        self.synced.clone().wait_for(|synced| *synced).await.is_ok()
    }
}

impl Provider for Kubernetes {
    fn objects(&self) -> latest::Receiver<Arc<Objects>> {
        self.objects.clone()
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Takes changes in and publishes what they come to.
struct Gather {
    state: State,
    incoming: mpsc::Receiver<Change>,
    options: KubernetesOptions,
    publish: latest::Sender<Arc<Objects>>,
    synced: latest::Sender<bool>,
}

impl Gather {
    async fn run(mut self) {
        // When the first change came that is not published yet.
        let mut first: Option<Instant> = None;
        let mut next = Instant::now();
        loop {
            let change = match first {
                None => Ok(self.incoming.recv().await),
                Some(_) => timeout_at(next, self.incoming.recv()).await,
            };
            match change {
                Ok(None) => return,
                Ok(Some(change)) => {
                    if self.take(change) {
                        first.get_or_insert_with(Instant::now);
                    }
                }
                Err(_) => {}
            }
            let Some(waiting) = first.map(|first| first.elapsed()) else {
                continue;
            };
            let calm = self.incoming.is_empty() && Instant::now() >= next;
            // Changes that come faster than they are taken in are never all there.
            if calm || waiting >= LONGEST_PAUSE {
                first = None;
                self.publish();
                next = Instant::now() + PAUSE;
            }
        }
    }

    /// Whether it changed anything.
    fn take(&mut self, change: Change) -> bool {
        let kind = change.kind;
        let name = match &change.what {
            What::Put(read) => Some(read.name.clone()),
            What::Gone(name) => Some(name.clone()),
            What::Listed(_) | What::Absent => None,
        };
        let effect = self.state.apply(change);
        if let Some(name) = name {
            self.options.metrics.changed(kind, effect, &name);
        }
        effect != Effect::None
    }

    fn publish(&mut self) {
        if !self.state.is_complete() {
            return;
        }
        let objects = self.state.objects();
        let labels = objects
            .namespaces
            .values()
            .filter_map(|it| it.value.metadata.labels.as_ref());
        let monitored = labels.filter(|labels| spec::is_monitored(labels, &self.options.mesh_name));
        self.options.metrics.monitored(monitored.count());
        let objects = Arc::new(objects);
        self.publish.send_replace(objects.clone());
        if !self.synced.send_replace(true) {
            info!(
                pods = objects.pods.len(),
                services = objects.services.len(),
                missing = ?objects.missing,
                "the cluster is known"
            );
        }
    }
}
