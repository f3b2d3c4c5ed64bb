use crate::spec::{Document, Severity, Source, read};

/// Severity and field of what is found in an object with this kind and spec.
fn found(kind: &str, spec: &str) -> Vec<(Severity, String)> {
    let api_version = match kind {
        "TrafficTarget" => "access.smi-spec.io/v1alpha3",
        "TrafficSplit" => "split.smi-spec.io/v1alpha2",
        "MeshConfig" => "config.openservicemesh.io/v1alpha2",
        _ => "specs.smi-spec.io/v1alpha4",
    };
    let text = format!(
        "{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: a, namespace: shop}}, spec: {spec}}}"
    );
    let source = Source {
        file: "a.yaml".into(),
        line: 1,
        text: text.into(),
    };
    match read(&source).unwrap() {
        Document::Other(_) => panic!("{kind} is not read"),
        Document::Object(_, _, found) | Document::Invalid(_, found) => {
            found.into_iter().map(|it| (it.severity, it.field)).collect()
        }
    }
}

fn error(field: &str) -> Vec<(Severity, String)> {
    vec![(Severity::Error, field.to_owned())]
}

fn warning(field: &str) -> Vec<(Severity, String)> {
    vec![(Severity::Warning, field.to_owned())]
}

#[test]
fn traffic_targets() {
    let destination = "destination: {kind: ServiceAccount, name: shop, namespace: shop}";
    let sources = "sources: [{kind: ServiceAccount, name: buyer}]";
    let rules = "rules: [{kind: TCPRoute, name: db}]";
    assert!(found("TrafficTarget", &format!("{{{destination}, {sources}, {rules}}}")).is_empty());
    let elsewhere = "destination: {kind: ServiceAccount, name: shop, namespace: other}";
    assert_eq!(
        found("TrafficTarget", &format!("{{{elsewhere}, {sources}, {rules}}}")),
        error("spec.destination.namespace")
    );
    assert_eq!(
        found("TrafficTarget", &format!("{{{destination}, {rules}}}")),
        warning("spec.sources")
    );
    assert_eq!(
        found("TrafficTarget", &format!("{{{destination}, {sources}}}")),
        error("spec.rules")
    );
    assert_eq!(
        found(
            "TrafficTarget",
            &format!("{{{destination}, sources: [{{kind: User, name: a}}], {rules}}}")
        ),
        error("spec.sources[0].kind")
    );
    assert_eq!(
        found(
            "TrafficTarget",
            &format!("{{{destination}, {sources}, rules: [{{kind: UDPRoute, name: a}}]}}")
        ),
        error("spec.rules[0].kind")
    );
}

#[test]
fn http_route_groups() {
    let group = |spec: &str| found("HTTPRouteGroup", &format!("{{matches: [{spec}]}}"));
    assert!(group("{name: a, pathRegex: '.*a-book.*new', methods: [GET], headers: [{user-agent: '.*-http-client/*.*'}]}").is_empty());
    assert_eq!(
        group("{name: a, pathRegex: '('}"),
        error("spec.matches[0].pathRegex")
    );
    for proxies_refuse in ["", "a)|(?:b", "\\p{Greek}", "(a{1000}){1000}"] {
        assert_eq!(
            group(&format!("{{name: a, pathRegex: '{proxies_refuse}'}}")),
            error("spec.matches[0].pathRegex"),
            "{proxies_refuse}"
        );
    }
    assert_eq!(
        group("{name: a, headers: [{x: '['}]}"),
        error("spec.matches[0].headers[0].x")
    );
    assert_eq!(
        group("{name: a, methods: ['GET /']}"),
        error("spec.matches[0].methods[0]")
    );
    assert_eq!(group("{name: a}, {name: a}"), warning("spec.matches[1].name"));
    assert_eq!(group(""), warning("spec.matches"));
}

#[test]
fn tcp_routes() {
    assert!(found("TCPRoute", "{matches: {ports: [3306]}}").is_empty());
    assert_eq!(
        found("TCPRoute", "{matches: {ports: [80, 0]}}"),
        error("spec.matches.ports[1]")
    );
    assert_eq!(found("TCPRoute", "{matches: {ports: [70000]}}").len(), 1);
}

#[test]
fn traffic_splits() {
    let split = |backends: &str| found("TrafficSplit", &format!("{{service: a, backends: [{backends}]}}"));
    assert!(split("{service: b, weight: 1}, {service: c, weight: 0}").is_empty());
    assert_eq!(split("{service: b, weight: 0}"), warning("spec.backends"));
    assert_eq!(
        split("{service: b, weight: 1}, {service: b, weight: 2}"),
        warning("spec.backends[1].service")
    );
    assert_eq!(
        found(
            "TrafficSplit",
            "{service: a, matches: [{kind: HTTPRouteGroup}], backends: [{service: b, weight: 1}]}"
        ),
        error("spec.matches")
    );
}

#[test]
fn mesh_configs() {
    assert!(
        found(
            "MeshConfig",
            "{traffic: {enableEgress: true}, certificate: {serviceCertValidityDuration: 24h}}"
        )
        .is_empty()
    );
    assert_eq!(
        found("MeshConfig", "{sidecar: {tlsMinProtocolVersion: TLSv1_9}}"),
        error("spec.sidecar.tlsMinProtocolVersion")
    );
    let strong = "ECDHE-ECDSA-AES128-GCM-SHA256";
    assert_eq!(
        found(
            "MeshConfig",
            &format!(
                "{{sidecar: {{tlsMinProtocolVersion: TLSv1_2, cipherSuites: [{strong}, RC4], ecdhCurves: [P-256]}}}}"
            )
        ),
        error("spec.sidecar.cipherSuites[1]")
    );
    assert_eq!(
        found(
            "MeshConfig",
            &format!("{{sidecar: {{cipherSuites: [{strong}]}}}}")
        ),
        warning("spec.sidecar.cipherSuites")
    );
    assert_eq!(
        found("MeshConfig", "{sidecar: {tlsMaxProtocolVersion: TLSv1_1}}"),
        error("spec.sidecar.tlsMaxProtocolVersion")
    );
    assert_eq!(
        found(
            "MeshConfig",
            "{traffic: {outboundIPRangeExclusionList: [10.0.0.1]}}"
        ),
        error("spec.traffic.outboundIPRangeExclusionList[0]")
    );
    assert_eq!(
        found("MeshConfig", "{certificate: {serviceCertValidityDuration: 1d}}"),
        error("spec.certificate.serviceCertValidityDuration")
    );
    assert_eq!(
        found("MeshConfig", "{observability: {tracing: {enable: true}}}"),
        warning("spec.observability.tracing")
    );
    assert_eq!(
        found("MeshConfig", "{traffic: {enableEgres: true}}"),
        warning("spec.traffic.enableEgres")
    );
}

/// Each of these would keep every new pod from starting.
#[test]
fn what_a_sidecar_would_not_start_with_is_an_error() {
    for (spec, field) in [
        ("{sidecar: {logLevel: loud}}", "spec.sidecar.logLevel"),
        (
            "{traffic: {inboundPortExclusionList: [22, 0]}}",
            "spec.traffic.inboundPortExclusionList[1]",
        ),
        (
            "{traffic: {networkInterfaceExclusionList: ['-j']}}",
            "spec.traffic.networkInterfaceExclusionList[0]",
        ),
    ] {
        assert_eq!(found("MeshConfig", spec), error(field));
    }
    assert!(found("MeshConfig", "{sidecar: {logLevel: warning}}").is_empty());
}
