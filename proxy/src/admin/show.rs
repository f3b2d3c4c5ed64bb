//! Configuration, certificates and clusters as the pages show them.

use std::{fmt::Write as _, time::SystemTime};

use prost_types::Timestamp;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use weir_xds::ResourceType;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Chain, ClusterView, EndpointView, unix_seconds};
use crate::{
    identity,
    tls::PeerIdentity,
    xds::{Dumped, Owner, Summary},
};

const DAY: i64 = 86_400;

/// How one resource type stands in Envoy's config dump.
struct Section {
    kind: ResourceType,
    message: &'static str,
    fixed: &'static str,
    dynamic: &'static str,
    /// The field that holds the resource.
    field: &'static str,
}

const SECTIONS: [Section; 5] = [
    Section {
        kind: ResourceType::Listener,
        message: "ListenersConfigDump",
        fixed: "static_listeners",
        dynamic: "dynamic_listeners",
        field: "listener",
    },
    Section {
        kind: ResourceType::Route,
        message: "RoutesConfigDump",
        fixed: "static_route_configs",
        dynamic: "dynamic_route_configs",
        field: "route_config",
    },
    Section {
        kind: ResourceType::Cluster,
        message: "ClustersConfigDump",
        fixed: "static_clusters",
        dynamic: "dynamic_active_clusters",
        field: "cluster",
    },
    Section {
        kind: ResourceType::Endpoints,
        message: "EndpointsConfigDump",
        fixed: "static_endpoint_configs",
        dynamic: "dynamic_endpoint_configs",
        field: "endpoint_config",
    },
    Section {
        kind: ResourceType::Secret,
        message: "SecretsConfigDump",
        fixed: "static_secrets",
        dynamic: "dynamic_active_secrets",
        field: "secret",
    },
];

/// Every resource in the order and under the keys of Envoy's config dump.
pub(super) fn config_dump(dumped: &[Dumped], node: &(String, String)) -> Value {
    let bootstrap = json!({
        "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
        "bootstrap": { "node": { "id": node.0, "cluster": node.1 } },
    });
    let sections = SECTIONS.iter().map(|section| section.dump(dumped));
    json!({ "configs": std::iter::once(bootstrap).chain(sections).collect::<Vec<_>>() })
}

impl Section {
    fn dump(&self, dumped: &[Dumped]) -> Value {
        let mine = dumped.iter().filter(|entry| entry.kind == self.kind);
        let (fixed, dynamic): (Vec<_>, Vec<_>) = mine.partition(|entry| entry.owner == Owner::Local);
        let shown = |entries: Vec<&Dumped>| entries.into_iter().map(|entry| self.entry(entry)).collect();
        let mut section = Map::new();
        section.insert(
            "@type".to_owned(),
            format!("type.googleapis.com/envoy.admin.v3.{}", self.message).into(),
        );
        section.insert(self.fixed.to_owned(), Value::Array(shown(fixed)));
        section.insert(self.dynamic.to_owned(), Value::Array(shown(dynamic)));
        section.into()
    }

    fn entry(&self, dumped: &Dumped) -> Value {
        let mut entry = Map::new();
        entry.insert("name".to_owned(), (*dumped.name).into());
        let state = match dumped.state {
            Summary::Pending => "pending",
            Summary::Absent => "absent",
            Summary::Ready => "ready",
        };
        entry.insert("state".to_owned(), state.into());
        if !dumped.version.is_empty() {
            entry.insert("version_info".to_owned(), dumped.version.as_str().into());
        }
        if let Some(updated) = dumped.updated {
            entry.insert("last_updated".to_owned(), rfc3339(updated).into());
        }
        if let Some(error) = &dumped.error {
            entry.insert("error_state".to_owned(), json!({ "details": error }));
        }
        if let Some(resource) = dumped.to_json().get_mut("resource").map(Value::take)
            && !resource.is_null()
        {
            entry.insert(self.field.to_owned(), resource);
        }
        entry.into()
    }
}

/// Certificates and roots in use, and how the proxy's own is renewed.
pub(super) fn certs(chains: &[Chain], identity: Option<&identity::Status>) -> Value {
    let now = SystemTime::now();
    let shown: Vec<_> = chains
        .iter()
        .map(|chain| {
            let certificates: Vec<_> = chain
                .certificates
                .iter()
                .map(|one| certificate(one, now))
                .collect();
            let key = if chain.roots { "ca_cert" } else { "cert_chain" };
            json!({ "name": chain.name, key: certificates })
        })
        .collect();
    let mut page = json!({ "certificates": shown });
    if let Some(identity) = identity {
        page["renewal"] = json!({
            "rotations": identity.rotations,
            "failures": identity.failures,
            "last_error": identity.last_error,
        });
    }
    page
}

fn certificate(der: &CertificateDer<'_>, now: SystemTime) -> Value {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return json!({ "error": "not a certificate" });
    };
    let names = PeerIdentity::parse(der).unwrap_or_default();
    let uris = names.uris.iter().map(|uri| json!({ "uri": uri }));
    let dns = names.dns.iter().map(|name| json!({ "dns": name }));
    let validity = parsed.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let left = until - i64::try_from(unix_seconds(now)).unwrap_or(i64::MAX);
    json!({
        "subject": parsed.subject().to_string(),
        "issuer": parsed.issuer().to_string(),
        "serial_number": parsed.raw_serial_as_string(),
        "subject_alt_names": uris.chain(dns).collect::<Vec<_>>(),
        "valid_from": rfc3339_seconds(from),
        "expiration_time": rfc3339_seconds(until),
        "days_until_expiration": left.max(0) / DAY,
        "seconds_until_expiration": left.max(0),
    })
}

fn rfc3339(at: SystemTime) -> String {
    let mut at = Timestamp::from(at);
    at.nanos -= at.nanos % 1_000_000;
    at.to_string()
}

fn rfc3339_seconds(seconds: i64) -> String {
    Timestamp { seconds, nanos: 0 }.to_string()
}

/// Clusters, one line a fact, as Envoy writes them.
pub(super) fn clusters_text(clusters: &[ClusterView]) -> String {
    let mut text = String::new();
    for cluster in clusters {
        let name = &cluster.name;
        match cluster.trouble {
            Some(trouble) => {
                let _ = writeln!(text, "{name}::state::{trouble}");
            }
            None => {
                let _ = writeln!(text, "{name}::endpoints::{}", cluster.endpoints.len());
            }
        }
        for endpoint in &cluster.endpoints {
            endpoint_lines(&mut text, name, endpoint);
        }
    }
    if text.is_empty() {
        text.push_str("no cluster is in use");
    }
    text
}

fn endpoint_lines(text: &mut String, cluster: &str, endpoint: &EndpointView) {
    let mut line = |fact: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{cluster}::{}::{fact}::{value}", endpoint.address);
    };
    if let Some((namespace, name)) = &endpoint.pod {
        line("pod", &format_args!("{namespace}/{name}"));
    }
    line("tls", &endpoint.tls);
    if let Some(principal) = &endpoint.principal {
        line("principal", principal);
    }
    line("weight", &endpoint.weight);
    line("in_flight", &endpoint.in_flight);
}

/// Clusters as JSON.
pub(super) fn clusters_json(clusters: &[ClusterView]) -> Value {
    let endpoint = |endpoint: &EndpointView| {
        json!({
            "address": { "socket_address": {
                "address": endpoint.address.ip().to_string(),
                "port_value": endpoint.address.port(),
            } },
            "namespace": endpoint.pod.as_ref().map(|pod| &pod.0),
            "pod": endpoint.pod.as_ref().map(|pod| &pod.1),
            "principal": endpoint.principal,
            "tls": endpoint.tls,
            "weight": endpoint.weight,
            "in_flight": endpoint.in_flight,
        })
    };
    let statuses: Vec<_> = clusters
        .iter()
        .map(|cluster| {
            json!({
                "name": cluster.name,
                "state": cluster.trouble.unwrap_or("ready"),
                "host_statuses": cluster.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "cluster_statuses": statuses })
}
