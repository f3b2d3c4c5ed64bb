//! Joins all objects into a snapshot.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{
    Authorization, Backend, InboundPort, Pod, Service, ServiceKey, Snapshot, authorization,
    inbound::{Inbound, Leading},
    index::Index,
    mesh::{self, Monitored, keep},
    pods::{PodInfo, Pods},
    policy::Policy,
    services::{self, Services},
    splits,
};
use crate::{
    endpoints::Objects,
    spec::{Diagnostic, ObjectName},
    table::Table,
};

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
///
/// It looks at everything: [`Catalog`](super::Catalog) comes to the same by what changed.
#[must_use]
pub fn build(previous: Option<&Snapshot>, objects: &Objects, settings: &Settings) -> Snapshot {
    let empty = Snapshot::default();
    let last = previous.unwrap_or(&empty);
    let mut diagnostics = objects.diagnostics.to_vec();
    let monitored = mesh::monitored(objects, settings);
    let mesh = mesh::mesh_settings(objects, settings, &mut diagnostics);
    let pods = Pods::join(objects, &monitored, settings);
    let joined = join_services(objects, &monitored, &pods, mesh.egress);
    let inbound = inbound(&joined);
    diagnose(objects, &joined, &inbound, &mut diagnostics);
    let accounts = authorization::by_account(objects, &monitored, &settings.trust_domain, &mut diagnostics);
    let splits = splits::join(
        objects,
        &monitored,
        &joined,
        &settings.trust_domain,
        &mut diagnostics,
    );

    let policy = Policy::new(&mesh, accounts);
    let mut services = Table::default();
    let mut claims = Index::default();
    for (key, service) in &joined {
        let Some(service) = &service.service else { continue };
        service
            .cluster_ips
            .iter()
            .for_each(|ip| claims.add(*ip, key.clone()));
        let now = finish_service(service, splits.get(key), &joined, &policy);
        services.insert(key.clone(), keep(last.services.get(key), now));
    }
    let mut addresses = Table::default();
    for ip in joined
        .values()
        .filter_map(|it| it.service.as_ref())
        .flat_map(|it| &it.cluster_ips)
    {
        claims
            .get(ip)
            .next()
            .and_then(|first| addresses.insert(*ip, first.clone()));
    }
    diagnostics.sort();
    diagnostics.dedup();
    Snapshot {
        generation: last.generation + 1,
        addresses,
        direct: direct(&services),
        services,
        pods: finish_pods(last, &pods, &inbound, &policy),
        mesh: keep(Some(&last.mesh), mesh),
        diagnostics: keep(Some(&last.diagnostics), diagnostics),
        policies: objects.policies.clone(),
    }
}

fn join_services(objects: &Objects, monitored: &Monitored, pods: &Pods, egress: bool) -> Services {
    let mut slices: HashMap<ServiceKey, Vec<&EndpointSlice>> = HashMap::new();
    for (name, slice) in &objects.endpoint_slices {
        if let Some(service) = services::of_slice(name, &slice.value) {
            slices.entry(service).or_default().push(&slice.value);
        }
    }
    let of_mesh = objects
        .services
        .iter()
        .filter(|(name, _)| monitored.contains(&name.namespace));
    let join = |(name, stored): (&ObjectName, &Arc<_>)| {
        let key = services::key(name);
        let behind = slices.get(&key).map_or(&[][..], Vec::as_slice);
        let joined = services::join(name, stored, behind.iter().copied(), pods, egress);
        (key, joined)
    };
    of_mesh.map(join).collect()
}

fn inbound(services: &Services) -> Inbound {
    let mut inbound = Inbound::default();
    for (key, joined) in services {
        for (port, protocol) in &joined.leads {
            inbound.add(port, key, *protocol);
        }
    }
    inbound
}

fn diagnose(objects: &Objects, services: &Services, inbound: &Inbound, diagnostics: &mut Vec<Diagnostic>) {
    for (key, joined) in services {
        diagnostics.extend_from_slice(&joined.diagnostics);
        if let Some(stored) = objects.services.get(&services::name(key)) {
            diagnostics.extend(services::disagreements(key, &stored.source, joined, inbound));
        }
    }
}

/// A service with its split and whether it can be reached: where it is split, by way of its backends.
pub(super) fn finish_service(
    service: &Service,
    split: Option<&Vec<Backend>>,
    services: &Services,
    policy: &Policy,
) -> Service {
    let covered = |backend: &Backend| {
        services::get(services, &backend.service).is_some_and(|service| policy.covers(service))
    };
    Service {
        split: split.cloned(),
        reachable: policy.covers(service) || split.is_some_and(|backends| backends.iter().any(covered)),
        ..service.clone()
    }
}

fn direct(services: &Table<ServiceKey, Arc<Service>>) -> Table<IpAddr, Arc<[ServiceKey]>> {
    let mut leading: HashMap<IpAddr, Vec<&ServiceKey>> = HashMap::new();
    for (key, service) in services {
        for ip in services::endpoint_ips(service) {
            leading.entry(ip).or_default().push(key);
        }
    }
    let ranked =
        |(ip, keys): (IpAddr, Vec<&ServiceKey>)| (ip, services::leading(keys.into_iter(), services).into());
    leading.into_iter().map(ranked).collect()
}

fn finish_pods(
    last: &Snapshot,
    pods: &Pods,
    inbound: &Inbound,
    policy: &Policy,
) -> Table<Arc<str>, Arc<Pod>> {
    let served = pods.iter().filter(|(_, info)| info.is_served());
    let served = served.filter_map(|(_, info)| pods.served(&info.uid));
    let finished = served.map(|(name, info)| {
        let now = finish_pod(info, inbound.of(name), policy.of(info));
        (info.uid.clone(), keep(last.pods.get(&info.uid), now))
    });
    finished.collect()
}

/// A pod with what leads to it.
pub(super) fn finish_pod<'a>(
    info: &PodInfo,
    leading: impl Iterator<Item = (u16, &'a Leading)>,
    authorization: &Arc<Authorization>,
) -> Pod {
    let ports = leading.filter_map(|(port, leading)| {
        let (_, protocol) = leading.first_key_value()?;
        Some(InboundPort {
            port,
            protocol: *protocol,
            services: leading.keys().cloned().collect(),
            authorization: authorization.clone(),
        })
    });
    Pod {
        uid: info.uid.clone(),
        service_account: info.account.name.to_string(),
        principal: info.principal.clone(),
        ips: info.ips.clone(),
        workload: info.workload.clone(),
        inbound: ports.collect(),
    }
}
