//! What differs between two snapshots, as topics that sessions subscribe to.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use super::names::Topic;
use crate::catalog::{Service, ServiceKey, Snapshot};

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    /// Everything may have.
    All,
    /// These parts did.
    Topics(HashSet<Topic>),
}

impl Default for Touched {
    fn default() -> Self {
        Self::Topics(HashSet::new())
    }
}

impl Touched {
    /// Whether nothing did.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Topics(topics) if topics.is_empty())
    }

    /// Whether this part did.
    pub(super) fn contains(&self, topic: &Topic) -> bool {
        match self {
            Self::All => true,
            Self::Topics(topics) => topics.contains(topic),
        }
    }

    /// Adds a part.
    pub(super) fn add(&mut self, topic: Topic) {
        if let Self::Topics(topics) = self {
            topics.insert(topic);
        }
    }
}

/// What changed from `old` to `new`. What they share is not looked into.
pub(super) fn between(old: &Snapshot, new: &Snapshot) -> Touched {
    if !Arc::ptr_eq(&old.mesh, &new.mesh) && old.mesh != new.mesh {
        return Touched::All;
    }
    let mut topics = HashSet::new();
    let mut service = |service: &Arc<Service>| {
        topics.insert(Topic::Service(service.key.clone()));
        topics.extend(addresses(service).map(Topic::Address));
    };
    for change in old.services.changes(&new.services, Arc::ptr_eq) {
        change.old.into_iter().chain(change.new).for_each(&mut service);
    }
    let moved = old.addresses.changes(&new.addresses, ServiceKey::eq);
    topics.extend(moved.map(|change| Topic::Address(*change.key)));
    let moved = old.direct.changes(&new.direct, Arc::eq);
    topics.extend(moved.map(|change| Topic::Address(*change.key)));
    let pods = old.pods.changes(&new.pods, Arc::ptr_eq);
    topics.extend(pods.map(|change| Topic::Pod(change.key.clone())));
    Touched::Topics(topics)
}

fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let pods = service
        .ports
        .iter()
        .flat_map(|port| &port.endpoints)
        .map(|endpoint| endpoint.ip);
    service.cluster_ips.iter().copied().chain(pods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_leads_to_another_service_is_touched() {
        let leading = |names: &[&str]| {
            let keys = names.iter().map(|&name| ServiceKey {
                namespace: "n".into(),
                name: name.into(),
            });
            let mut snapshot = Snapshot::default();
            snapshot.direct.insert([10, 0, 0, 1].into(), keys.collect());
            snapshot
        };
        let at = Topic::Address([10, 0, 0, 1].into());
        assert!(between(&leading(&["a"]), &leading(&["b", "a"])).contains(&at));
        assert!(between(&leading(&["a"]), &Snapshot::default()).contains(&at));
        assert!(between(&Snapshot::default(), &leading(&["a"])).contains(&at));
        assert!(between(&leading(&["a"]), &leading(&["a"])).is_empty());
    }
}
