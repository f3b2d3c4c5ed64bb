//! Rules for OSM's own policy kinds. The mesh does not follow them yet; what could never be right is told all the same,
//! so that nobody finds out on the day it does.

use ipnet::IpNet;
use serde_json::Value;

use super::smi::check_regex;
use crate::spec::{
    Egress, Finding, GoDuration, IngressBackend, ObjectReference, PolicyPort, Retry, Subject,
    UpstreamTrafficSetting,
};

const RETRY_ON: [&str; 15] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
const UNITS: [&str; 3] = ["second", "minute", "hour"];

/// What is wrong with an Egress.
#[must_use]
pub fn egress(egress: &Egress) -> Vec<Finding> {
    let spec = &egress.spec;
    let mut findings = Vec::new();
    for (index, source) in spec.sources.iter().enumerate() {
        check_kind(
            &format!("spec.sources[{index}]"),
            source,
            "ServiceAccount",
            &mut findings,
        );
    }
    check_ports(
        &spec.ports,
        &["http", "https", "tcp", "tcp-server-first"],
        |at| format!("spec.ports[{at}]"),
        &mut findings,
    );
    for (index, range) in spec.ip_addresses.iter().enumerate() {
        check_range(&format!("spec.ipAddresses[{index}]"), range, &mut findings);
    }
    let by_host = |port: &PolicyPort| port.protocol.eq_ignore_ascii_case("http");
    if spec.hosts.is_empty() && spec.ports.iter().any(by_host) {
        findings.push(Finding::warning(
            "spec.hosts",
            "HTTP is let out by host, and none is named",
            "name the hosts",
        ));
    }
    check_matches(&spec.matches, &mut findings);
    findings
}

/// What is wrong with an IngressBackend.
#[must_use]
pub fn ingress_backend(ingress: &IngressBackend) -> Vec<Finding> {
    let mut findings = Vec::new();
    let backends = &ingress.spec.backends;
    let ports: Vec<_> = backends.iter().map(|backend| backend.port.clone()).collect();
    check_ports(
        &ports,
        &["http", "https"],
        |at| format!("spec.backends[{at}].port"),
        &mut findings,
    );
    for (index, backend) in backends.iter().enumerate() {
        let mut before = backends.iter().take(index);
        if before.any(|it| it.name == backend.name && it.port.number == backend.port.number) {
            findings.push(Finding::error(
                format!("spec.backends[{index}]"),
                format!("port {} of {} is there twice", backend.port.number, backend.name),
                "remove one of them",
            ));
        }
    }
    for (index, source) in ingress.spec.sources.iter().enumerate() {
        let field = format!("spec.sources[{index}]");
        match source.kind.as_str() {
            "AuthenticatedPrincipal" => {}
            "IPRange" => check_range(&format!("{field}.name"), &source.name, &mut findings),
            "Service" if source.namespace.is_some() => {}
            "Service" => findings.push(Finding::error(
                format!("{field}.namespace"),
                "a Service is named without its namespace",
                "name the namespace",
            )),
            kind => findings.push(Finding::error(
                format!("{field}.kind"),
                format!("traffic cannot come from a {kind}"),
                "write kind: Service, AuthenticatedPrincipal or IPRange",
            )),
        }
    }
    findings
}

/// What is wrong with a Retry.
#[must_use]
pub fn retry(retry: &Retry) -> Vec<Finding> {
    let spec = &retry.spec;
    let mut findings = Vec::new();
    check_kind("spec.source", &spec.source, "ServiceAccount", &mut findings);
    for (index, destination) in spec.destinations.iter().enumerate() {
        check_kind(
            &format!("spec.destinations[{index}]"),
            destination,
            "Service",
            &mut findings,
        );
    }
    let policy = &spec.retry_policy;
    let words = policy.retry_on.split(',').map(str::trim);
    for word in words.filter(|word| !RETRY_ON.contains(word)) {
        findings.push(Finding::error(
            "spec.retryPolicy.retryOn",
            format!("{word:?} is nothing to retry on"),
            format!("write some of {}", RETRY_ON.join(", ")),
        ));
    }
    let durations = [
        ("perTryTimeout", &policy.per_try_timeout),
        ("retryBackoffBaseInterval", &policy.retry_backoff_base_interval),
    ];
    for (name, duration) in durations {
        if duration.as_ref().is_some_and(|duration| duration.0.is_zero()) {
            findings.push(Finding::error(
                format!("spec.retryPolicy.{name}"),
                "it is no time at all",
                "write a duration such as 250ms",
            ));
        }
    }
    findings
}

/// What is wrong with an UpstreamTrafficSetting.
#[must_use]
pub fn upstream_traffic_setting(setting: &UpstreamTrafficSetting) -> Vec<Finding> {
    let mut findings = Vec::new();
    let namespace = setting.metadata.namespace.as_deref().unwrap_or("default");
    let ours = setting
        .spec
        .host
        .strip_suffix(&format!(".{namespace}.svc.cluster.local"));
    if ours.is_none_or(|service| service.is_empty() || service.contains('.')) {
        findings.push(Finding::error(
            "spec.host",
            format!("{:?} is no service of namespace {namespace}", setting.spec.host),
            format!("write it as SERVICE.{namespace}.svc.cluster.local"),
        ));
    }
    let timeout = setting
        .spec
        .connection_settings
        .as_ref()
        .and_then(|all| all.pointer("/tcp/connectTimeout"));
    if let Some(timeout) = timeout
        && timeout.as_str().and_then(GoDuration::parse).is_none()
    {
        findings.push(Finding::error(
            "spec.connectionSettings.tcp.connectTimeout",
            format!("{timeout} is no duration"),
            "write a duration such as 5s",
        ));
    }
    for kind in ["tcp", "http"] {
        let limit = setting
            .spec
            .rate_limit
            .as_ref()
            .and_then(|all| all.pointer(&format!("/local/{kind}")));
        check_unit(&format!("spec.rateLimit.local.{kind}"), limit, &mut findings);
    }
    for (index, route) in setting.spec.http_routes.iter().enumerate() {
        let field = format!("spec.httpRoutes[{index}]");
        check_regex(&format!("{field}.path"), &route.path, &mut findings);
        let limit = route.rate_limit.as_ref().and_then(|all| all.get("local"));
        check_unit(&format!("{field}.rateLimit.local"), limit, &mut findings);
    }
    findings
}

fn check_unit(field: &str, limit: Option<&Value>, findings: &mut Vec<Finding>) {
    let Some(limit) = limit else {
        return;
    };
    if !limit
        .get("unit")
        .and_then(Value::as_str)
        .is_some_and(|unit| UNITS.contains(&unit))
    {
        findings.push(Finding::error(
            format!("{field}.unit"),
            "the limit has no unit of time that is known",
            format!("write one of {}", UNITS.join(", ")),
        ));
    }
}

fn check_kind(field: &str, subject: &Subject, kind: &str, findings: &mut Vec<Finding>) {
    if subject.kind != kind {
        findings.push(Finding::error(
            format!("{field}.kind"),
            format!("it cannot be a {}", subject.kind),
            format!("write kind: {kind}"),
        ));
    }
}

fn check_ports(
    ports: &[PolicyPort],
    known: &[&str],
    field: impl Fn(usize) -> String,
    findings: &mut Vec<Finding>,
) {
    for (index, port) in ports.iter().enumerate() {
        let field = field(index);
        if port.number == 0 {
            findings.push(Finding::error(
                format!("{field}.number"),
                "0 is not a port",
                "write a port from 1 to 65535",
            ));
        }
        if !known.iter().any(|it| port.protocol.eq_ignore_ascii_case(it)) {
            findings.push(Finding::error(
                format!("{field}.protocol"),
                format!("{:?} is not a protocol that counts here", port.protocol),
                format!("write one of {}", known.join(", ")),
            ));
        }
    }
}

fn check_range(field: &str, range: &str, findings: &mut Vec<Finding>) {
    if range.parse::<IpNet>().is_err() {
        findings.push(Finding::error(
            field,
            format!("{range:?} is not an address range"),
            "write it as 10.0.0.0/8 or fd00::/8",
        ));
    }
}

fn check_matches(matches: &[ObjectReference], findings: &mut Vec<Finding>) {
    let mut settings = 0;
    for (index, wanted) in matches.iter().enumerate() {
        let group = wanted.api_group.split('/').next().unwrap_or_default();
        match (group, wanted.kind.as_str()) {
            ("specs.smi-spec.io", "HTTPRouteGroup") => {}
            ("policy.openservicemesh.io", "UpstreamTrafficSetting") => settings += 1,
            (group, kind) => findings.push(Finding::error(
                format!("spec.matches[{index}]"),
                format!("{kind} of {group:?} is nothing to match"),
                "name an HTTPRouteGroup of specs.smi-spec.io/v1alpha4, or an UpstreamTrafficSetting of \
                 policy.openservicemesh.io/v1alpha1",
            )),
        }
    }
    if settings > 1 {
        findings.push(Finding::error(
            "spec.matches",
            format!("there are {settings} UpstreamTrafficSettings, and one can count"),
            "leave one",
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::spec::{Document, Severity, read_json};

    /// Fields with errors, and with warnings, of a policy with this spec.
    fn found(kind: &str, spec: &Value) -> (Vec<String>, Vec<String>) {
        let object = json!({ "metadata": { "name": "a", "namespace": "shop" }, "spec": spec });
        let found = match read_json("policy.openservicemesh.io/v1alpha1", kind, &object) {
            Document::Object(..) => panic!("{kind} is followed now"),
            Document::Invalid(_, found) | Document::Other(found) => found,
        };
        let (errors, warnings): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|it| it.severity == Severity::Error);
        let fields = |all: Vec<crate::spec::Diagnostic>| all.into_iter().map(|it| it.field).collect();
        (fields(errors), fields(warnings))
    }

    /// Errors, besides the word that the kind is ignored.
    fn errors(kind: &str, spec: &Value) -> Vec<String> {
        let (errors, warnings) = found(kind, spec);
        assert!(
            warnings.contains(&"kind".to_owned()) || errors == ["spec"],
            "{warnings:?}"
        );
        errors
    }

    use super::*;

    #[test]
    fn policies_of_osm_that_are_right_are_only_said_to_be_ignored() {
        let account = json!({ "kind": "ServiceAccount", "name": "buyer", "namespace": "shop" });
        let right = [
            (
                "Egress",
                json!({ "sources": [account], "hosts": ["httpbin.org"], "ports": [{ "number": 80, "protocol": "http" }],
                "matches": [{ "apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "r" }] }),
            ),
            (
                "IngressBackend",
                json!({ "backends": [{ "name": "web", "port": { "number": 80, "protocol": "https" },
                "tls": { "skipClientCertValidation": true } }], "sources": [{ "kind": "IPRange", "name": "10.0.0.0/8" },
                { "kind": "Service", "name": "gate", "namespace": "gate" }] }),
            ),
            (
                "Retry",
                json!({ "source": account, "destinations": [{ "kind": "Service", "name": "web", "namespace": "shop" }],
                "retryPolicy": { "retryOn": "5xx, reset", "perTryTimeout": "1s", "numRetries": 5,
                    "retryBackoffBaseInterval": "25ms" } }),
            ),
            (
                "UpstreamTrafficSetting",
                json!({ "host": "web.shop.svc.cluster.local",
                "connectionSettings": { "tcp": { "maxConnections": 1, "connectTimeout": "5s" } },
                "rateLimit": { "local": { "tcp": { "connections": 1, "unit": "minute" } } },
                "httpRoutes": [{ "path": "/a.*", "rateLimit": { "local": { "requests": 1, "unit": "second" } } }] }),
            ),
        ];
        for (kind, spec) in right {
            assert_eq!(found(kind, &spec), (vec![], vec!["kind".to_owned()]), "{kind}");
        }
    }

    #[test]
    fn what_could_never_be_right_is_an_error() {
        let egress = json!({ "sources": [{ "kind": "User", "name": "a", "namespace": "b" }], "ipAddresses": ["10.0.0.0"],
            "ports": [{ "number": 0, "protocol": "smtp" }], "matches": [{ "apiGroup": "v1", "kind": "Pod", "name": "r" }] });
        let wanted = [
            "spec.sources[0].kind",
            "spec.ports[0].number",
            "spec.ports[0].protocol",
            "spec.ipAddresses[0]",
            "spec.matches[0]",
        ];
        assert_eq!(errors("Egress", &egress), wanted);
        let backend = json!({ "name": "web", "port": { "number": 80, "protocol": "http" } });
        let ingress = json!({ "backends": [backend, backend], "sources": [{ "kind": "Service", "name": "a" },
            { "kind": "IPRange", "name": "here" }, { "kind": "Pod", "name": "a" }] });
        let wanted = [
            "spec.backends[1]",
            "spec.sources[0].namespace",
            "spec.sources[1].name",
            "spec.sources[2].kind",
        ];
        assert_eq!(errors("IngressBackend", &ingress), wanted);
        let retry = json!({ "source": { "kind": "Pod", "name": "a" }, "destinations": [],
            "retryPolicy": { "retryOn": "5xx,whatever", "perTryTimeout": "0s" } });
        let wanted = [
            "spec.source.kind",
            "spec.retryPolicy.retryOn",
            "spec.retryPolicy.perTryTimeout",
        ];
        assert_eq!(errors("Retry", &retry), wanted);
        let setting = json!({ "host": "web.other.svc.cluster.local", "connectionSettings": { "tcp": { "connectTimeout": "soon" } },
            "rateLimit": { "local": { "http": { "unit": "day" } } }, "httpRoutes": [{ "path": "(" }] });
        let wanted = [
            "spec.host",
            "spec.connectionSettings.tcp.connectTimeout",
            "spec.rateLimit.local.http.unit",
            "spec.httpRoutes[0].path",
        ];
        assert_eq!(errors("UpstreamTrafficSetting", &setting), wanted);
        assert_eq!(errors("Egress", &json!("none")), ["spec"]);
    }

    #[test]
    fn a_field_that_is_misspelt_is_told() {
        let spec = json!({ "hosts": [], "port": [] });
        assert_eq!(found("Egress", &spec).1, ["spec.port", "kind"]);
    }
}
