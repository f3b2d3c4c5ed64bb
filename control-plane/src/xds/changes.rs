//! What differs between two snapshots, as topics that sessions subscribe to.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::names::Topic;
use crate::catalog::{Service, Snapshot};

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

/// What changed from `old` to `new`. Parts that are the same `Arc` are not looked into.
pub(super) fn between(old: &Snapshot, new: &Snapshot) -> Touched {
    if !Arc::ptr_eq(&old.mesh, &new.mesh) && old.mesh != new.mesh {
        return Touched::All;
    }
    let mut topics = HashSet::new();
    let mut service = |service: &Arc<Service>| {
        topics.insert(Topic::Service(service.key.clone()));
        topics.extend(addresses(service).map(Topic::Address));
    };
    for (key, now) in &new.services {
        match old.services.get(key) {
            Some(before) if Arc::ptr_eq(before, now) => {}
            Some(before) => {
                service(before);
                service(now);
            }
            None => service(now),
        }
    }
    old.services
        .iter()
        .filter(|(key, _)| !new.services.contains_key(*key))
        .for_each(|(_, gone)| service(gone));
    topics.extend(moved(&old.addresses, &new.addresses));
    topics.extend(moved(&old.direct, &new.direct));
    for (uid, pod) in &new.pods {
        if !old.pods.get(uid).is_some_and(|before| Arc::ptr_eq(before, pod)) {
            topics.insert(Topic::Pod(uid.clone()));
        }
    }
    let gone = old.pods.keys().filter(|uid| !new.pods.contains_key(*uid));
    topics.extend(gone.map(|uid| Topic::Pod(uid.clone())));
    Touched::Topics(topics)
}

/// The addresses that lead elsewhere than they did.
fn moved<T: PartialEq>(old: &HashMap<IpAddr, T>, new: &HashMap<IpAddr, T>) -> Vec<Topic> {
    let from = old.iter().filter(|(ip, it)| new.get(*ip) != Some(*it));
    let to = new.keys().filter(|ip| !old.contains_key(*ip));
    from.map(|(ip, _)| *ip)
        .chain(to.copied())
        .map(Topic::Address)
        .collect()
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
    use crate::catalog::ServiceKey;

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
