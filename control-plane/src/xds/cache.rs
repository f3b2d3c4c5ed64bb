//! Resources that are the same for everybody, built and encoded once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    changes::Touched,
    names::{Name, Topic},
    resources::{self, At, Dialect, Encoded},
    view::Moment,
};
use crate::{
    catalog::{MeshSettings, Service, Snapshot},
    certificates::TrustBundle,
};

/// Encoded shared resources, each kept while the parts of the mesh that it was made from are the same `Arc`s.
/// Holds no more than what the mesh has: names that lead nowhere are not kept.
#[derive(Default)]
pub(super) struct Cache {
    entries: Mutex<HashMap<Topic, OfTopic>>,
}

/// What depends on one topic.
type OfTopic = HashMap<(Name, Dialect), Entry>;

struct Entry {
    made_from: Inputs,
    encoded: Arc<Encoded>,
}

struct Inputs {
    mesh: Arc<MeshSettings>,
    trust: Option<Arc<TrustBundle>>,
    service: Option<Arc<Service>>,
}

impl Cache {
    /// The resource at this moment. Not for names that differ from pod to pod.
    pub(super) fn get(&self, name: &Name, moment: &Moment, dialect: Dialect) -> Option<Arc<Encoded>> {
        let build = || resources::build(name, &moment.snapshot, &moment.trust, None, dialect);
        let inputs = Inputs::of(name, moment).zip(name.shared_topic());
        let Some((made_from, topic)) = inputs else {
            return build().map(Arc::new);
        };
        let key = (name.clone(), dialect);
        let mut entries = self.entries.lock();
        let entries = entries.entry(topic).or_default();
        match entries.get_mut(&key) {
            Some(entry) if entry.made_from.same(&made_from) => Some(entry.encoded.clone()),
            Some(entry) => {
                let Some(encoded) = build() else {
                    entries.remove(&key);
                    return None;
                };
                entry.made_from = made_from;
                // Equal content stays one allocation, whoever holds it.
                if entry.encoded.version != encoded.version {
                    entry.encoded = Arc::new(encoded);
                }
                Some(entry.encoded.clone())
            }
            None => {
                let encoded = Arc::new(build()?);
                let kept = encoded.clone();
                entries.insert(
                    key,
                    Entry {
                        made_from,
                        encoded: kept,
                    },
                );
                Some(encoded)
            }
        }
    }

    /// Forgets what was made from services and addresses that are gone. Looks at what was touched only.
    pub(super) fn forget_missing(&self, touched: &Touched, snapshot: &Snapshot) {
        let mut entries = self.entries.lock();
        match touched {
            Touched::All => {
                entries
                    .values_mut()
                    .for_each(|of_topic| keep_existing(of_topic, snapshot));
                entries.retain(|_, of_topic| !of_topic.is_empty());
            }
            Touched::Topics(topics) => {
                for topic in topics {
                    if let Some(of_topic) = entries.get_mut(topic) {
                        keep_existing(of_topic, snapshot);
                        if of_topic.is_empty() {
                            entries.remove(topic);
                        }
                    }
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.lock().values().map(OfTopic::len).sum()
    }
}

fn keep_existing(entries: &mut OfTopic, snapshot: &Snapshot) {
    entries.retain(|(name, _), _| match name {
        Name::Routes(key, _) | Name::Cluster(key, ..) | Name::Endpoints(key, _) => {
            snapshot.services.contains_key(key)
        }
        Name::Address(address) => resources::at(snapshot, *address).is_some(),
        _ => true,
    });
}

impl Inputs {
    /// `None`: not worth keeping.
    fn of(name: &Name, moment: &Moment) -> Option<Self> {
        let snapshot = &moment.snapshot;
        let (service, trust) = match name {
            Name::Outbound | Name::Passthrough => (None, None),
            Name::TrustBundle => (None, Some(moment.trust.clone())),
            Name::Routes(key, _) | Name::Cluster(key, ..) | Name::Endpoints(key, _) => {
                (Some(snapshot.services.get(key)?.clone()), None)
            }
            Name::Address(address) => match resources::at(snapshot, *address)? {
                At::Port(service, _) => (Some(service.clone()), None),
                At::UnknownPort => return None,
            },
            Name::Inbound | Name::InboundRoutes(_) | Name::Local(_) => return None,
        };
        Some(Self {
            mesh: snapshot.mesh.clone(),
            trust,
            service,
        })
    }

    fn same(&self, other: &Self) -> bool {
        fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
            match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            }
        }
        Arc::ptr_eq(&self.mesh, &other.mesh)
            && same(self.trust.as_ref(), other.trust.as_ref())
            && same(self.service.as_ref(), other.service.as_ref())
    }
}
