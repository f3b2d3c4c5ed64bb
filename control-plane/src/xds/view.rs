//! The mesh as one session sees it.

use std::sync::Arc;

use weir_xds::ResourceType;

use super::{
    cache::Cache,
    names::Name,
    resources::{self, Dialect, Encoded},
};
use crate::{
    catalog::{Pod, Snapshot},
    certificates::TrustBundle,
};

/// Looks resources up. The session state machines know nothing else of the mesh.
pub(super) trait View {
    /// The resource of that name, as it is now.
    fn get(&self, kind: ResourceType, name: &str) -> Option<Arc<Encoded>>;

    /// The names of every resource of a type that can be subscribed to by wildcard.
    fn all(&self, kind: ResourceType) -> Vec<String>;

    /// Which state of the mesh this is. Whoever debugs a sidecar sees how far it has come.
    fn generation(&self) -> u64;
}

/// What all sessions see: one moment of the mesh.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) trust: Arc<TrustBundle>,
}

/// One moment of the mesh, seen from one pod.
pub(super) struct PodView<'a> {
    pub(super) moment: &'a Moment,
    pub(super) cache: &'a Cache,
    pub(super) pod: Option<&'a Arc<Pod>>,
    pub(super) dialect: Dialect,
}

impl View for PodView<'_> {
    fn get(&self, kind: ResourceType, name: &str) -> Option<Arc<Encoded>> {
        let name = Name::parse(kind, name)?;
        if name.is_per_pod() {
            let Moment { snapshot, trust } = self.moment;
            return resources::build(&name, snapshot, trust, self.pod.map(|pod| &**pod), self.dialect)
                .map(Arc::new);
        }
        self.cache.get(&name, self.moment, self.dialect)
    }

    fn all(&self, kind: ResourceType) -> Vec<String> {
        match kind {
            ResourceType::Listener => resources::all_listeners(&self.moment.snapshot),
            ResourceType::Cluster => {
                let pod = self.pod.map(|pod| &**pod);
                resources::all_clusters(&self.moment.snapshot, pod, self.dialect)
            }
            _ => Vec::new(),
        }
    }

    fn generation(&self) -> u64 {
        self.moment.snapshot.generation
    }
}
