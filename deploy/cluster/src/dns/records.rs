//! Which records a name of the cluster has: Services and EndpointSlices in, records out. Pure.
//!
//! Source: the specification of Kubernetes DNS-based service discovery, version 1.1.0, without reverse lookups.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, SRV},
};
use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::{Endpoint, EndpointSlice},
};

/// The zone of cluster names.
const ZONE: &str = ".svc.cluster.local";
/// Seconds that a record may be kept: none, so that tests see every change.
const TTL: u32 = 0;
/// The label by which a slice names its Service.
const OF_SERVICE: &str = "kubernetes.io/service-name";

/// What the cluster has at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
}

/// The records of `name` of this type; `None` when there is no such name.
pub(crate) fn answer(objects: &Objects, name: &Name, kind: RecordType) -> Option<Vec<Record>> {
    let text = name.to_lowercase().to_ascii();
    let text = text.trim_end_matches('.').strip_suffix(ZONE)?;
    let labels: Vec<&str> = text.split('.').collect();
    let (service, before) = match labels.as_slice() {
        [before @ .., service, namespace] => (objects.service(namespace, service)?, before),
        _ => return None,
    };
    let records = match before {
        [] => whole(objects, service),
        [host] => one_endpoint(objects, service, host)?,
        [port, protocol] => ports(objects, service, port, protocol)?,
        _ => return None,
    };
    let wanted = |data: &RData| data.record_type() == kind || matches!(data, RData::CNAME(_));
    let of_kind = records.into_iter().filter(wanted);
    Some(
        of_kind
            .map(|data| Record::from_rdata(name.clone(), TTL, data))
            .collect(),
    )
}

impl Objects {
    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services
            .iter()
            .map(Arc::as_ref)
            .find(|service| is(&service.metadata.name, name) && is(&service.metadata.namespace, namespace))
    }

    fn slices<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a EndpointSlice> {
        self.slices.iter().map(Arc::as_ref).filter(|slice| {
            let owner = slice
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(OF_SERVICE));
            owner == service.metadata.name.as_ref() && slice.metadata.namespace == service.metadata.namespace
        })
    }

    /// Endpoints that clients may be led to.
    fn ready<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Endpoint> {
        let endpoints = self.slices(service).flat_map(|slice| &slice.endpoints);
        endpoints.filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
        })
    }
}

fn is(value: &Option<String>, text: &str) -> bool {
    value.as_deref() == Some(text)
}

/// The ClusterIPs, the ready endpoints of a headless Service, or where an ExternalName points.
fn whole(objects: &Objects, service: &Service) -> Vec<RData> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    if let Some(target) = spec
        .external_name
        .as_deref()
        .filter(|_| is(&spec.type_, "ExternalName"))
    {
        return Name::from_ascii(target)
            .map(CNAME)
            .map(RData::CNAME)
            .into_iter()
            .collect();
    }
    let own: Vec<IpAddr> = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter_map(|ip| ip.parse().ok())
        .collect();
    if !own.is_empty() {
        return own.into_iter().map(address).collect();
    }
    addresses(objects.ready(service))
}

/// One endpoint of a headless Service: by its host name, or its address with dashes.
fn one_endpoint(objects: &Objects, service: &Service, host: &str) -> Option<Vec<RData>> {
    let named = |endpoint: &&Endpoint| host_name(endpoint).as_deref() == Some(host);
    let found = addresses(objects.ready(service).filter(named));
    (headless(service) && !found.is_empty()).then_some(found)
}

/// SRV records of a named port.
fn ports(objects: &Objects, service: &Service, port: &str, protocol: &str) -> Option<Vec<RData>> {
    let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
    let spec = service.spec.as_ref()?;
    let declared = spec
        .ports
        .iter()
        .flatten()
        .find(|declared| is(&declared.name, port))?;
    let speaks = declared.protocol.as_deref().unwrap_or("TCP");
    if !speaks.eq_ignore_ascii_case(protocol) {
        return None;
    }
    let own = format!(
        "{}.{}{ZONE}.",
        service.metadata.name.as_deref()?,
        service.metadata.namespace.as_deref()?
    );
    Some(match headless(service) {
        true => endpoint_ports(objects, service, declared, &own),
        false => server(declared.port, &own).into_iter().collect(),
    })
}

fn endpoint_ports(objects: &Objects, service: &Service, declared: &ServicePort, own: &str) -> Vec<RData> {
    let mut found = Vec::new();
    for slice in objects.slices(service) {
        let port = slice
            .ports
            .iter()
            .flatten()
            .find(|port| port.name == declared.name);
        let Some(port) = port.and_then(|port| port.port) else {
            continue;
        };
        let names = slice.endpoints.iter().filter_map(host_name);
        found.extend(names.filter_map(|host| server(port, &format!("{host}.{own}"))));
    }
    found
}

fn server(port: i32, target: &str) -> Option<RData> {
    let target = Name::from_ascii(target).ok()?;
    Some(RData::SRV(SRV::new(0, 100, u16::try_from(port).ok()?, target)))
}

fn headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| is(&spec.cluster_ip, "None"))
}

fn host_name(endpoint: &Endpoint) -> Option<String> {
    let dashed = || Some(endpoint.addresses.first()?.replace(['.', ':'], "-"));
    endpoint.hostname.clone().or_else(dashed)
}

/// Each address once.
fn addresses<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<RData> {
    let all = endpoints.flat_map(|endpoint| &endpoint.addresses);
    let parsed: BTreeSet<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    parsed.into_iter().map(address).collect()
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects() -> Objects {
        let read = |value| Arc::new(serde_json::from_value(value).unwrap());
        let service = |name: &str, spec: serde_json::Value| {
            read(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
        };
        let slice = json!({
            "metadata": {"name": "db-1", "namespace": "shop", "labels": {OF_SERVICE: "db"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.1.0.1"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.1.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.1.0.3"], "hostname": "db-2", "conditions": {"ready": false}},
            ],
            "ports": [{"name": "sql", "port": 3307, "protocol": "TCP"}],
        });
        let ports = json!([{"name": "sql", "port": 3306}]);
        Objects {
            services: vec![
                service(
                    "web",
                    json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ports": ports}),
                ),
                service(
                    "db",
                    json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}),
                ),
                service(
                    "far",
                    json!({"type": "ExternalName", "externalName": "example.org"}),
                ),
            ],
            slices: vec![Arc::new(serde_json::from_value(slice).unwrap())],
        }
    }

    fn ask(name: &str, kind: RecordType) -> Option<Vec<String>> {
        let name = Name::from_ascii(format!("{name}.cluster.local.")).unwrap();
        let records = answer(&objects(), &name, kind)?;
        Some(records.iter().map(|record| record.data.to_string()).collect())
    }

    #[test]
    fn a_service_has_its_cluster_ips_by_family() {
        assert_eq!(ask("web.shop.svc", RecordType::A).unwrap(), ["10.96.0.5"]);
        assert_eq!(ask("WEB.shop.svc", RecordType::AAAA).unwrap(), ["fd00::5"]);
        assert_eq!(ask("web.shop.svc", RecordType::TXT).unwrap(), [""; 0]);
        assert_eq!(ask("web.other.svc", RecordType::A), None);
        assert_eq!(ask("web-0.web.shop.svc", RecordType::A), None);
    }

    #[test]
    fn a_headless_service_has_its_ready_pods_together_and_one_by_one() {
        assert_eq!(
            ask("db.shop.svc", RecordType::A).unwrap(),
            ["10.1.0.1", "10.1.0.2"]
        );
        assert_eq!(ask("db-0.db.shop.svc", RecordType::A).unwrap(), ["10.1.0.1"]);
        assert_eq!(ask("10-1-0-2.db.shop.svc", RecordType::A).unwrap(), ["10.1.0.2"]);
        assert_eq!(ask("db-2.db.shop.svc", RecordType::A), None);
    }

    #[test]
    fn named_ports_have_srv_records() {
        let one = ask("_sql._tcp.web.shop.svc", RecordType::SRV).unwrap();
        assert_eq!(one, ["0 100 3306 web.shop.svc.cluster.local."]);
        let each = ask("_sql._tcp.db.shop.svc", RecordType::SRV).unwrap();
        assert!(
            each.contains(&"0 100 3307 db-0.db.shop.svc.cluster.local.".to_owned()),
            "{each:?}"
        );
        assert_eq!(ask("_sql._udp.web.shop.svc", RecordType::SRV), None);
    }

    #[test]
    fn an_external_name_is_an_alias() {
        assert_eq!(ask("far.shop.svc", RecordType::A).unwrap(), ["example.org"]);
    }
}
