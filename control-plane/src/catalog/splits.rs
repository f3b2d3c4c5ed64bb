//! TrafficSplits: which services stand in for a service, and by how much.
//!
//! Of two splits for one service the older counts (`creationTimestamp`; one that has none is younger than any), then
//! the first by name.

use std::collections::{BTreeMap, HashMap};

use super::{
    Backend, Service, ServiceKey,
    mesh::Monitored,
    services::{self, Services},
};
use crate::{
    endpoints::Objects,
    spec::{Diagnostic, Finding, ObjectName, Stored, TrafficSplit},
};

/// The backends of every split service, by service.
pub(super) type Splits = BTreeMap<ServiceKey, Vec<Backend>>;

/// Reads them.
pub(super) fn join(
    objects: &Objects,
    monitored: &Monitored,
    services: &Services,
    trust_domain: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Splits {
    let mut by_age: Vec<_> = objects.traffic_splits.iter().collect();
    by_age.sort_by_key(|(name, split)| {
        let created = split
            .value
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        (created.is_none(), created, *name)
    });
    let mut winners: HashMap<ServiceKey, &ObjectName> = HashMap::new();
    let mut splits = Splits::new();
    for (name, split) in by_age {
        let mut reading = Reading {
            name,
            split,
            objects,
            services,
            diagnostics,
        };
        let Some(apex) = reading.apex(monitored, trust_domain) else {
            continue;
        };
        if let Some(winner) = winners.get(&apex.key) {
            reading.report(Finding::warning(
                "spec.service",
                format!(
                    "service {} is split by {winner} already; this split is ignored",
                    apex.key
                ),
                "remove one of them",
            ));
            continue;
        }
        winners.insert(apex.key.clone(), name);
        let backends = reading.backends(apex);
        if backends.iter().any(|backend| backend.weight > 0) {
            splits.insert(apex.key.clone(), backends);
        }
    }
    splits
}

/// One split being read.
struct Reading<'a> {
    name: &'a ObjectName,
    split: &'a Stored<TrafficSplit>,
    objects: &'a Objects,
    services: &'a Services,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl<'a> Reading<'a> {
    fn apex(&mut self, monitored: &Monitored, trust_domain: &str) -> Option<&'a Service> {
        let namespace = &self.name.namespace;
        if !monitored.contains(&**namespace) {
            self.report(Finding::warning(
                "metadata.namespace",
                format!("namespace {namespace} does not belong to the mesh; the split is ignored"),
                format!("add the namespace to the mesh: weir namespace add {namespace}"),
            ));
            return None;
        }
        let written = &self.split.value.spec.service;
        let Some((name, other)) = parse(written, trust_domain) else {
            self.report(Finding::error(
                "spec.service",
                format!("{written} is not a Service's name; the split is not in force"),
                "write name, name.namespace or name.namespace.svc.cluster.local",
            ));
            return None;
        };
        if let Some(other) = other.filter(|other| *other != &**namespace) {
            self.report(Finding::error(
                "spec.service",
                format!("the service is in namespace {other}, the split in {namespace}; it is not in force"),
                format!("move the split to namespace {other}"),
            ));
            return None;
        }
        let apex = services::get(self.services, &self.beside(name));
        if apex.is_none() {
            self.report(Finding::error(
                "spec.service",
                format!("{}; the split is not in force", self.missing(&self.beside(name))),
                "name a Service of the split's namespace that has endpoints in the mesh, or create it",
            ));
        }
        apex
    }

    /// Backends that are there and have the apex's ports. The weights of the rest count among themselves.
    fn backends(&mut self, apex: &Service) -> Vec<Backend> {
        let mut backends: Vec<Backend> = Vec::new();
        for (index, backend) in self.split.value.spec.backends.iter().enumerate() {
            let field = format!("spec.backends[{index}].service");
            let key = self.beside(&backend.service);
            let Some(service) = services::get(self.services, &key) else {
                self.report(Finding::error(
                    field,
                    format!("{}; the other backends get its share", self.missing(&key)),
                    format!(
                        "name a Service of namespace {} that has endpoints in the mesh, or create it",
                        key.namespace
                    ),
                ));
                continue;
            };
            let lacking = apex
                .ports
                .iter()
                .find(|port| service.ports.iter().all(|other| other.number != port.number));
            if let Some(port) = lacking {
                self.report(Finding::error(
                    field,
                    format!(
                        "Service {key} has no port {}, which {} has; the other backends get its share",
                        port.number, apex.key
                    ),
                    format!("give Service {key} the port {}", port.number),
                ));
                continue;
            }
            if backends.iter().all(|other| other.service != key) {
                backends.push(Backend {
                    service: key,
                    weight: backend.weight,
                });
            }
        }
        backends
    }

    /// Why there is nothing to send traffic to.
    fn missing(&self, key: &ServiceKey) -> String {
        let name = ObjectName {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        };
        let spec = self
            .objects
            .services
            .get(&name)
            .and_then(|it| it.value.spec.as_ref());
        match spec.is_some_and(services::is_external_name) {
            true => format!("Service {key} is an ExternalName, which has no endpoints in the mesh"),
            false => format!("there is no Service {key}"),
        }
    }

    fn beside(&self, name: &str) -> ServiceKey {
        ServiceKey {
            namespace: self.name.namespace.clone(),
            name: name.into(),
        }
    }

    fn report(&mut self, finding: Finding) {
        let object = format!("TrafficSplit {}", self.name);
        self.diagnostics
            .push(self.split.source.diagnostic(object, finding));
    }
}

/// Name and namespace of `name`, `name.namespace`, `name.namespace.svc` and so on.
fn parse<'a>(service: &'a str, trust_domain: &str) -> Option<(&'a str, Option<&'a str>)> {
    let mut parts = service.splitn(3, '.');
    let name = parts.next().filter(|name| !name.is_empty())?;
    let namespace = parts.next();
    let domain = parts.next();
    let known = domain.is_none_or(|domain| {
        ["svc", "svc.cluster", "svc.cluster.local"].contains(&domain)
            || domain
                .strip_prefix("svc.")
                .is_some_and(|rest| rest == trust_domain)
    });
    known.then_some((name, namespace))
}
