//! The catalog kept from one state of the objects to the next, at the cost of what changed.
//!
//! It comes to what [`build`](super::build) comes to. What each step makes is kept with the way back from what it was
//! made of, so that a change finds what it makes [`Stale`], and only that is made anew: the pods that changed → the
//! services whose endpoints name them → what those lead to → policies and splits, as a whole, where one of them
//! changed → the parts of the snapshot.

mod finish;
mod join;
mod stale;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use self::stale::Stale;
use super::{
    MeshSettings, ServiceKey, Settings, Snapshot,
    inbound::Inbound,
    index::Index,
    mesh::{self, Monitored, keep},
    pods::{Pods, Reference},
    policy::Policy,
    services::{self, Services},
    splits::Splits,
};
use crate::{
    endpoints::Objects,
    spec::{Diagnostic, Stored},
};

/// EndpointSlices of a service, by name.
type Slices = BTreeMap<Arc<str>, Arc<Stored<EndpointSlice>>>;

/// Joins objects into snapshots, one after the other.
#[derive(Debug)]
pub struct Catalog {
    settings: Settings,
    /// What it has seen; `None`: nothing yet.
    seen: Option<Objects>,
    monitored: Monitored,
    pods: Pods,
    slices: HashMap<ServiceKey, Slices>,
    services: Services,
    /// The services whose endpoints name a pod.
    users: Index<Reference, ServiceKey>,
    inbound: Inbound,
    policy: Policy,
    splits: Splits,
    /// The services that a split gives another one as backend.
    apexes: Index<ServiceKey, ServiceKey>,
    /// The services that claim an address.
    claims: Index<IpAddr, ServiceKey>,
    /// The services with an endpoint of an address.
    leading: Index<IpAddr, ServiceKey>,
    findings: BTreeMap<Part, Vec<Diagnostic>>,
    /// The snapshot being made.
    next: Snapshot,
    last: Arc<Snapshot>,
}

/// What a diagnostic comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Mesh,
    Service(ServiceKey),
    /// A service beside others.
    Inbound(ServiceKey),
    Policies,
    Splits,
}

impl Catalog {
    /// Begins with nothing. What is equal in `last` stays the same `Arc`, and snapshots are counted on from it.
    #[must_use]
    pub fn new(settings: Settings, last: Arc<Snapshot>) -> Self {
        Self {
            settings,
            seen: None,
            monitored: Monitored::new(),
            pods: Pods::default(),
            slices: HashMap::new(),
            services: Services::new(),
            users: Index::default(),
            inbound: Inbound::default(),
            policy: Policy::new(&MeshSettings::default(), HashMap::new()),
            splits: Splits::new(),
            apexes: Index::default(),
            claims: Index::default(),
            leading: Index::default(),
            findings: BTreeMap::new(),
            next: Snapshot::default(),
            last,
        }
    }

    /// The snapshot of these objects, which follows the last one.
    pub fn update(&mut self, objects: &Objects) -> Arc<Snapshot> {
        let fresh = self.seen.is_none();
        let before = self.seen.replace(objects.clone()).unwrap_or_default();
        let mut stale = Stale::default();
        if fresh || !same_mesh(&before, objects) {
            self.read_mesh(objects, fresh, &mut stale);
        }
        stale.policies |= fresh || !same_policies(&before, objects);
        stale.splits |= fresh || !before.traffic_splits.is_same(&objects.traffic_splits);
        self.compare(&before, objects, &mut stale);
        self.join_pods(objects, &mut stale);
        self.join_services(objects, &mut stale);
        self.find_disagreements(objects, &mut stale);
        if stale.policies {
            self.read_policies(objects, &mut stale);
        }
        if stale.splits {
            self.read_splits(objects, &mut stale);
        }
        self.finish_services(&mut stale);
        self.finish_addresses(&stale);
        self.finish_pods(&stale);
        if fresh || stale.findings || !Arc::ptr_eq(&before.diagnostics, &objects.diagnostics) {
            self.gather_diagnostics(objects);
        }
        self.next.policies = objects.policies.clone();
        self.next.generation = self.last.generation + 1;
        self.last = Arc::new(self.next.clone());
        self.last.clone()
    }

    fn read_mesh(&mut self, objects: &Objects, fresh: bool, stale: &mut Stale) {
        let mut found = Vec::new();
        let settings = mesh::mesh_settings(objects, &self.settings, &mut found);
        self.find(Part::Mesh, found, stale);
        if fresh || settings != *self.next.mesh {
            stale.policies = true;
            // ExternalNames are judged by it.
            if settings.egress != self.next.mesh.egress {
                stale.services.extend(objects.services.keys().map(services::key));
            }
            self.next.mesh = keep(Some(&self.last.mesh), settings);
        }
        let monitored = mesh::monitored(objects, &self.settings);
        let last = std::mem::replace(&mut self.monitored, monitored);
        let moved = |namespace: &Arc<str>| last.contains(namespace) != self.monitored.contains(namespace);
        if last != self.monitored {
            (stale.policies, stale.splits) = (true, true);
            let names = objects.pods.keys().filter(|name| moved(&name.namespace));
            stale.pods.extend(names.cloned());
            let names = objects.services.keys().filter(|name| moved(&name.namespace));
            stale.services.extend(names.map(services::key));
        }
    }

    /// Finds the pods and services that changed.
    fn compare(&mut self, before: &Objects, objects: &Objects, stale: &mut Stale) {
        let pods = before.pods.changes(&objects.pods, Arc::ptr_eq);
        stale.pods.extend(pods.map(|change| change.key.clone()));
        let services = before.services.changes(&objects.services, Arc::ptr_eq);
        stale
            .services
            .extend(services.map(|change| services::key(change.key)));
        for change in before
            .endpoint_slices
            .changes(&objects.endpoint_slices, Arc::ptr_eq)
        {
            let name = change.key;
            let of = |slice: &Arc<Stored<EndpointSlice>>| services::of_slice(name, &slice.value);
            if let Some(service) = change.old.and_then(of) {
                if let Some(slices) = self.slices.get_mut(&service) {
                    slices.remove(&name.name);
                    if slices.is_empty() {
                        self.slices.remove(&service);
                    }
                }
                stale.services.insert(service);
            }
            if let Some((slice, service)) = change.new.and_then(|slice| Some((slice, of(slice)?))) {
                let slices = self.slices.entry(service.clone()).or_default();
                slices.insert(name.name.clone(), slice.clone());
                stale.services.insert(service);
            }
        }
    }

    /// Notes what is wrong with a part.
    fn find(&mut self, part: Part, found: Vec<Diagnostic>, stale: &mut Stale) {
        let known = self.findings.get(&part).map_or(&[][..], Vec::as_slice);
        if known == found {
            return;
        }
        stale.findings = true;
        match found.is_empty() {
            true => self.findings.remove(&part),
            false => self.findings.insert(part, found),
        };
    }

    fn gather_diagnostics(&mut self, objects: &Objects) {
        let together = self.findings.values().flatten();
        let mut all: Vec<Diagnostic> = objects.diagnostics.iter().chain(together).cloned().collect();
        all.sort();
        all.dedup();
        self.next.diagnostics = keep(Some(&self.last.diagnostics), all);
    }
}

fn same_mesh(before: &Objects, now: &Objects) -> bool {
    before.namespaces.is_same(&now.namespaces) && before.mesh_configs.is_same(&now.mesh_configs)
}

/// Whether what TrafficTargets are made of is the same.
fn same_policies(before: &Objects, now: &Objects) -> bool {
    before.traffic_targets.is_same(&now.traffic_targets)
        && before.http_route_groups.is_same(&now.http_route_groups)
        && before.tcp_routes.is_same(&now.tcp_routes)
        && before.service_accounts.is_same(&now.service_accounts)
}
