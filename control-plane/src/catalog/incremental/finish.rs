//! The parts of the next snapshot.

use std::sync::Arc;

use super::{Catalog, stale::Stale};
use crate::catalog::{
    build::{finish_pod, finish_service},
    mesh::keep,
    services,
};

impl Catalog {
    pub(super) fn finish_services(&mut self, stale: &mut Stale) {
        for key in &stale.finish {
            let joined = services::get(&self.services, key);
            let now = joined.map(|service| {
                let now = finish_service(service, self.splits.get(key), &self.services, &self.policy);
                keep(self.last.services.get(key), now)
            });
            let last = self.next.services.get(key).cloned();
            if last.as_ref().map(Arc::as_ptr) == now.as_ref().map(Arc::as_ptr) {
                continue;
            }
            match &now {
                Some(now) => self.next.services.insert(key.clone(), now.clone()),
                None => self.next.services.remove(key),
            };
            let ips = |it: &Option<Arc<_>>| it.as_deref().map(services::endpoint_ips).unwrap_or_default();
            let (old, new) = (ips(&last), ips(&now));
            old.difference(&new).for_each(|ip| self.leading.remove(ip, key));
            new.difference(&old)
                .for_each(|ip| self.leading.add(*ip, key.clone()));
            let rank = |it: &Option<Arc<_>>| it.as_deref().map(services::rank);
            match rank(&last) == rank(&now) {
                true => stale.leading.extend(old.symmetric_difference(&new)),
                false => stale.leading.extend(old.union(&new)),
            }
        }
    }

    pub(super) fn finish_addresses(&mut self, stale: &Stale) {
        let addresses = &mut self.next.addresses;
        for ip in &stale.claims {
            match self.claims.get(ip).next() {
                Some(first) if addresses.get(ip) == Some(first) => {}
                Some(first) => drop(addresses.insert(*ip, first.clone())),
                None => drop(addresses.remove(ip)),
            }
        }
        for ip in &stale.leading {
            let leading = services::leading(self.leading.get(ip), &self.next.services);
            let direct = &mut self.next.direct;
            match direct.get(ip) {
                Some(known) if **known == *leading => {}
                _ if leading.is_empty() => drop(direct.remove(ip)),
                _ => drop(direct.insert(*ip, leading.into())),
            }
        }
    }

    pub(super) fn finish_pods(&mut self, stale: &Stale) {
        for uid in &stale.uids {
            let Some((name, info)) = self.pods.served(uid) else {
                self.next.pods.remove(uid);
                continue;
            };
            let pod = finish_pod(info, self.inbound.of(name), self.policy.of(info));
            let pod = keep(self.last.pods.get(uid), pod);
            if !self
                .next
                .pods
                .get(uid)
                .is_some_and(|known| Arc::ptr_eq(known, &pod))
            {
                self.next.pods.insert(info.uid.clone(), pod);
            }
        }
    }
}
