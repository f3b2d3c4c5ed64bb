//! Certificates and clusters as the pages show them.

use std::{fmt::Write as _, time::SystemTime};

use prost_types::Timestamp;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Chain, ClusterView, EndpointView, info, unix_seconds};
use crate::{identity, tls::PeerIdentity};

const DAY: i64 = 86_400;

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
        "path": "<inline>",
        "serial_number": parsed.raw_serial_as_string().replace(':', ""),
        "subject_alt_names": uris.chain(dns).collect::<Vec<_>>(),
        "valid_from": rfc3339_seconds(from),
        "expiration_time": rfc3339_seconds(until),
        "days_until_expiration": left.max(0) / DAY,
        "seconds_until_expiration": left.max(0),
    })
}

/// A time as JSON has it, to the millisecond.
pub(super) fn rfc3339(at: SystemTime) -> String {
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
        let _ = writeln!(text, "{name}::observability_name::{name}");
        let _ = writeln!(text, "{name}::added_via_api::{}", cluster.added_via_api);
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
    line("health_flags", &"healthy");
    line("weight", &endpoint.weight);
    line("rq_active", &endpoint.in_flight);
    line("in_flight", &endpoint.in_flight);
}

/// Clusters as JSON.
pub(super) fn clusters_json(clusters: &[ClusterView]) -> Value {
    let endpoint = |endpoint: &EndpointView| {
        json!({
            "address": info::socket_address(endpoint.address),
            "stats": [{ "type": "GAUGE", "name": "rq_active", "value": endpoint.in_flight.to_string() }],
            "health_status": { "eds_health_status": "HEALTHY" },
            "locality": {},
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
                "observability_name": cluster.name,
                "added_via_api": cluster.added_via_api,
                "state": cluster.trouble.unwrap_or("ready"),
                "host_statuses": cluster.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "cluster_statuses": statuses })
}
