//! Pods and services, joined anew where they are stale.

use std::mem;

use super::{Catalog, Part, ServiceKey, stale::Stale};
use crate::{
    catalog::{
        authorization,
        inbound::PodPort,
        index::Index,
        pods::{PodInfo, Reference},
        policy::Policy,
        services::{self, Joined},
        splits,
    },
    endpoints::Objects,
};

impl Catalog {
    pub(super) fn join_pods(&mut self, objects: &Objects, stale: &mut Stale) {
        for name in mem::take(&mut stale.pods) {
            let object = objects.pods.get(&name);
            let now = object.and_then(|pod| PodInfo::of(&name, &pod.value, &self.monitored, &self.settings));
            if self.pods.get(&name) == now.as_ref() {
                continue;
            }
            let last = self.pods.put(&name, now);
            for info in last.iter().chain(self.pods.get(&name)) {
                stale.uids.insert(info.uid.clone());
                for ip in &info.ips {
                    let users = self.users.get(&Reference::Address(*ip));
                    stale.services.extend(users.cloned());
                }
            }
            let users = self.users.get(&Reference::Name(name));
            stale.services.extend(users.cloned());
        }
    }

    pub(super) fn join_services(&mut self, objects: &Objects, stale: &mut Stale) {
        for key in mem::take(&mut stale.services) {
            let name = services::name(&key);
            let stored = objects.services.get(&name);
            let stored = stored.filter(|_| self.monitored.contains(&key.namespace));
            let joined = stored.map(|stored| {
                let slices = self.slices.get(&key).into_iter().flatten();
                let slices = slices.map(|(_, slice)| &slice.value);
                services::join(&name, stored, slices, &self.pods, self.next.mesh.egress)
            });
            let last = match joined {
                Some(joined) => self.services.insert(key.clone(), joined),
                None => self.services.remove(&key),
            };
            self.follow(&key, &last.unwrap_or_default(), stale);
        }
    }

    /// Keeps the ways back, and finds what else is stale now that a service is another than it was.
    fn follow(&mut self, key: &ServiceKey, last: &Joined, stale: &mut Stale) {
        let none = Joined::default();
        let now = self.services.get(key).unwrap_or(&none);
        for gone in last.references.difference(&now.references) {
            self.users.remove(gone, key);
        }
        for new in now.references.difference(&last.references) {
            self.users.add(new.clone(), key.clone());
        }
        let (old_ips, new_ips) = (last.cluster_ips(), now.cluster_ips());
        for ip in old_ips.iter().filter(|ip| !new_ips.contains(ip)) {
            self.claims.remove(ip, key);
            stale.claims.insert(*ip);
        }
        for ip in new_ips.iter().filter(|ip| !old_ips.contains(ip)) {
            self.claims.add(*ip, key.clone());
            stale.claims.insert(*ip);
        }
        let mut moved: Vec<&PodPort> = Vec::new();
        for (port, protocol) in last
            .leads
            .iter()
            .filter(|(port, _)| !now.leads.contains_key(port))
        {
            debug_assert!(
                self.inbound
                    .get(port)
                    .is_some_and(|it| it.get(key) == Some(protocol))
            );
            self.inbound.remove(port, key);
            moved.push(port);
        }
        for (port, protocol) in now
            .leads
            .iter()
            .filter(|(port, it)| last.leads.get(port) != Some(it))
        {
            self.inbound.add(port, key, *protocol);
            moved.push(port);
        }
        for port in moved {
            stale
                .uids
                .extend(self.pods.get(&port.0).map(|info| info.uid.clone()));
            let beside = self.inbound.get(port).into_iter().flatten();
            stale.disagreements.extend(beside.map(|(key, _)| key.clone()));
        }
        stale.disagreements.insert(key.clone());
        stale.splits |= !last.has_shape_of(now);
        // Whoever splits to it can be reached when it can be.
        stale.finish.extend(self.apexes.get(key).cloned());
        stale.finish.insert(key.clone());
        let found = now.diagnostics.clone();
        self.find(Part::Service(key.clone()), found, stale);
    }

    pub(super) fn find_disagreements(&mut self, objects: &Objects, stale: &mut Stale) {
        for key in mem::take(&mut stale.disagreements) {
            let joined = self
                .services
                .get(&key)
                .zip(objects.services.get(&services::name(&key)));
            let found = joined
                .map(|(joined, stored)| services::disagreements(&key, &stored.source, joined, &self.inbound));
            self.find(Part::Inbound(key), found.unwrap_or_default(), stale);
        }
    }

    pub(super) fn read_policies(&mut self, objects: &Objects, stale: &mut Stale) {
        let mut found = Vec::new();
        let trust_domain = &self.settings.trust_domain;
        let accounts = authorization::by_account(objects, &self.monitored, trust_domain, &mut found);
        let policy = Policy::new(&self.next.mesh, accounts);
        let last = mem::replace(&mut self.policy, policy);
        for (_, info) in self.pods.iter() {
            if last.of(info) != self.policy.of(info) {
                stale.uids.insert(info.uid.clone());
            }
        }
        if last.reach() != self.policy.reach() {
            stale.finish.extend(self.services.keys().cloned());
        }
        self.find(Part::Policies, found, stale);
    }

    pub(super) fn read_splits(&mut self, objects: &Objects, stale: &mut Stale) {
        let mut found = Vec::new();
        let trust_domain = &self.settings.trust_domain;
        let splits = splits::join(objects, &self.monitored, &self.services, trust_domain, &mut found);
        let last = mem::replace(&mut self.splits, splits);
        self.apexes = Index::default();
        for (apex, backends) in &self.splits {
            for backend in backends {
                self.apexes.add(backend.service.clone(), apex.clone());
            }
        }
        let touched = last.keys().chain(self.splits.keys());
        let touched = touched.filter(|apex| last.get(*apex) != self.splits.get(*apex));
        stale.finish.extend(touched.cloned());
        self.find(Part::Splits, found, stale);
    }
}
