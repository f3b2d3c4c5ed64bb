//! Joins all objects into a snapshot.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Authorization, InboundPort, Pod, Service, ServiceKey, Snapshot,
    authorization::{self, ByAccount},
    mesh::{self, keep},
    pods::{PodInfo, Pods},
    services::{self, Inbound},
    splits,
};
use crate::{endpoints::Objects, spec::ObjectName, table::Table};

/// What the catalog is told once, at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Namespaces labelled with this name belong to the mesh.
    pub mesh_name: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Namespace of the control plane, where the MeshConfig is.
    pub namespace: String,
}

/// Joins `objects` into the snapshot that follows `previous`. Its diagnostics are those of each object on its own and of
/// the objects together, by file and line.
#[must_use]
pub fn build(previous: Option<&Snapshot>, objects: &Objects, settings: &Settings) -> Snapshot {
    let mut diagnostics = objects.diagnostics.to_vec();
    let monitored = mesh::monitored(objects, settings);
    let mesh = mesh::mesh_settings(objects, settings, &mut diagnostics);
    let pods = Pods::join(objects, &monitored, &settings.trust_domain);
    let joined = services::join(objects, &monitored, &pods, mesh.egress, &mut diagnostics);
    let mut services = joined.by_key;
    let accounts = authorization::by_account(objects, &monitored, &settings.trust_domain, &mut diagnostics);
    let splits = splits::join(
        objects,
        &monitored,
        &services,
        &settings.trust_domain,
        &mut diagnostics,
    );

    let allowed = allowed_principals(&pods, &accounts);
    let reached: BTreeSet<ServiceKey> = services
        .iter()
        .filter(|(_, service)| {
            service
                .principals
                .iter()
                .any(|it| mesh.permissive || allowed.contains(it))
        })
        .map(|(key, _)| key.clone())
        .collect();
    for (apex, backends) in splits {
        if let Some(service) = services.get_mut(&apex) {
            service.reachable = backends.iter().any(|backend| reached.contains(&backend.service));
            service.split = Some(backends);
        }
    }
    for (key, service) in &mut services {
        service.reachable |= mesh.permissive || reached.contains(key);
    }

    diagnostics.sort();
    diagnostics.dedup();
    Snapshot {
        generation: previous.map_or(0, |previous| previous.generation) + 1,
        addresses: joined.addresses.into_iter().collect(),
        direct: services::direct(&services),
        services: keep_services(previous, services),
        pods: finish_pods(previous, pods.all, joined.inbound, accounts, mesh.permissive),
        mesh: keep(previous.map(|previous| &previous.mesh), mesh),
        diagnostics: keep(previous.map(|previous| &previous.diagnostics), diagnostics),
        policies: objects.policies.clone(),
    }
}

/// Principals of pods that some TrafficTarget lets someone reach.
fn allowed_principals(pods: &Pods<'_>, accounts: &ByAccount) -> BTreeSet<Arc<str>> {
    let mut allowed = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for pod in &pods.all {
        if seen.insert(&pod.principal) {
            let account = ObjectName::new(pod.namespace, pod.service_account);
            if accounts.get(&account).is_some_and(grants_something) {
                allowed.insert(pod.principal.clone());
            }
        }
    }
    allowed
}

fn grants_something(authorization: &Authorization) -> bool {
    match authorization {
        Authorization::Permissive => true,
        Authorization::Rules { tcp, .. } => tcp.iter().any(|rule| !rule.rule.principals.is_empty()),
    }
}

fn keep_services(
    previous: Option<&Snapshot>,
    services: BTreeMap<ServiceKey, Service>,
) -> Table<ServiceKey, Arc<Service>> {
    let kept = services.into_iter().map(|(key, service)| {
        let last = previous.and_then(|previous| previous.services.get(&key));
        (key, keep(last, service))
    });
    kept.collect()
}

fn finish_pods(
    previous: Option<&Snapshot>,
    pods: Vec<PodInfo<'_>>,
    inbound: Vec<Inbound>,
    mut accounts: ByAccount,
    permissive: bool,
) -> Table<Arc<str>, Arc<Pod>> {
    let last = last_authorizations(previous);
    let mut shared: HashMap<Arc<str>, Arc<Authorization>> = HashMap::new();
    let mut finished = Table::default();
    for (pod, inbound) in pods.into_iter().zip(inbound) {
        if !pod.meshed || pod.uid.is_empty() {
            continue;
        }
        let authorization = shared.entry(pod.principal.clone()).or_insert_with(|| {
            let rules = accounts.remove(&ObjectName::new(pod.namespace, pod.service_account));
            let now = match rules {
                _ if permissive => Authorization::Permissive,
                Some(rules) => rules,
                None => Authorization::Rules {
                    http: Vec::new(),
                    tcp: Vec::new(),
                },
            };
            keep(last.get(&pod.principal).copied(), now)
        });
        let ports = inbound
            .into_iter()
            .map(|(port, (protocol, services))| InboundPort {
                port,
                protocol,
                services,
                authorization: authorization.clone(),
            });
        let known = previous.and_then(|previous| previous.pods.get(pod.uid));
        let uid: Arc<str> = known.map_or_else(|| pod.uid.into(), |known| known.uid.clone());
        let now = Pod {
            uid: uid.clone(),
            service_account: pod.service_account.to_owned(),
            principal: pod.principal,
            ips: pod.ips,
            workload: pod.workload,
            inbound: ports.collect(),
        };
        finished.insert(uid, keep(known, now));
    }
    finished
}

/// What each principal's pods had last.
fn last_authorizations(previous: Option<&Snapshot>) -> HashMap<&Arc<str>, &Arc<Authorization>> {
    let pods = previous.into_iter().flat_map(|previous| previous.pods.values());
    let with_ports = pods.filter_map(|pod| Some((&pod.principal, &pod.inbound.first()?.authorization)));
    with_ports.collect()
}
