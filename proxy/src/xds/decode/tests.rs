//! What is taken, what is refused and with which words, and that nothing panics.

mod listeners;

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_xds::{
    envoy::{
        config::{listener::v3::Listener as ListenerMessage, route::v3::RouteConfiguration},
        extensions::transport_sockets::tls::v3::Secret as SecretMessage,
    },
    pack,
};

use super::*;
use crate::{
    bootstrap::from_json,
    model::{Discovery, Network, RouteSource, Terminal},
};

const HCM: &str = r#""@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager""#;
const ROUTER: &str = r#"{"name": "r", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}"#;
const RBAC: &str = r#""@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC""#;
const TCP: &str = r#"{"name": "t", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": "c"}}"#;
const DOWNSTREAM: &str =
    r#""@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext""#;
const UPSTREAM: &str =
    r#""@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext""#;

fn read<M: Decode>(json: &str) -> Result<M::Model, String> {
    let message: M = from_json(json).unwrap_or_else(|error| panic!("{error}\n{json}"));
    message
        .decode(&mut Context::new(Origin::Stream))
        .map_err(|error| error.to_string())
}

fn listener(body: &str) -> Result<Listener, String> {
    read::<ListenerMessage>(&format!(r#"{{"name": "l", "bind_to_port": false, {body}}}"#))
}

fn manager(body: &str) -> Result<Listener, String> {
    listener(&format!(
        r#""filter_chains": [{{"filters": [{{"name": "h", "typed_config": {{{HCM}, {body}}}}}]}}]"#
    ))
}

fn table(routes: &str) -> Result<RouteTable, String> {
    read::<RouteConfiguration>(&format!(
        r#"{{"name": "r", "virtual_hosts": [{{"name": "v", "domains": ["*"], "routes": [{routes}]}}]}}"#
    ))
}

fn cluster(body: &str) -> Result<Cluster, String> {
    read::<cds::Cluster>(&format!(r#"{{"name": "c", {body}}}"#))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, String>, words: &[&str]) {
    let error = outcome.expect_err("should be refused");
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn routes_are_read_and_refused() {
    let found = table(
        r#"{"match": {"safe_regex": {"google_re2": {}, "regex": "/a.*"}, "headers": [{"name": ":method", "exact_match": "GET"}]},
            "route": {"weighted_clusters": {"clusters": [{"name": "a", "weight": 100}, {"name": "b", "weight": 0}], "total_weight": 100}, "timeout": "0s"},
            "typed_per_filter_config": {"envoy.filters.http.rbac": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute", "rbac": {"rules": {}}}}}"#,
    )
    .unwrap();
    let route = &found.virtual_hosts[0].routes[0];
    assert!(matches!(&route.rbac, Some(Some(rbac)) if rbac.policies.is_empty()));
    let crate::model::RouteAction::Forward(to) = &route.action else {
        panic!("{route:?}")
    };
    assert_eq!((to.clusters.len(), to.timeout), (2, None));

    let rewrite = |regex: &str| {
        table(&format!(
            r#"{{"match": {{"prefix": "/"}}, "route": {{"cluster": "c", "regex_rewrite": {{"pattern": {{"regex": "{regex}"}}, "substitution": "/"}}}}}}"#
        ))
    };
    assert!(rewrite("^/a").is_ok());
    refused(rewrite("("), &["route.regex_rewrite", "not a usable expression"]);
    let to = r#""route": {"cluster": "c"}"#;
    refused(
        table(&format!(
            r#"{{"match": {{"safe_regex": {{"regex": "("}}}}, {to}}}"#
        )),
        &[
            "rds \"r\": virtual_hosts[0].routes[0].match.safe_regex",
            "not a usable expression",
        ],
    );
    refused(table(&format!(r#"{{"match": {{}}, {to}}}"#)), &["path specifier"]);
    refused(
        table(&format!(
            r#"{{"match": {{"prefix": "/", "tls_context": "AAAA"}}, {to}}}"#
        )),
        &["tls_context"],
    );
    refused(table(r#"{"match": {"prefix": "/"}}"#), &["needs an action"]);
    refused(
        table(r#"{"match": {"prefix": "/"}, "route": {"cluster_header": "x"}}"#),
        &["cluster_header"],
    );
    refused(
        table(r#"{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [{"name": "a"}]}}}"#),
        &["weighted_clusters", "sum of weights"],
    );
    refused(
        read::<RouteConfiguration>(
            r#"{"name": "r", "virtual_hosts": [{"name": "a", "domains": ["x"]}, {"name": "b", "domains": ["X"]}]}"#,
        ),
        &["virtual_hosts[1]", "twice"],
    );
    refused(
        read::<RouteConfiguration>(r#"{"name": "r", "virtual_hosts": [{"name": "a", "domains": ["a*b"]}]}"#),
        &["domains[0]"],
    );
    refused(
        table(&format!(
            r#"{{"match": {{"prefix": "/"}}, {to}, "typed_per_filter_config": {{"lua": {{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}}}"#
        )),
        &["typed_per_filter_config[\"lua\"]"],
    );
}

#[test]
fn clusters_are_read_and_refused() {
    let eds = cluster(&format!(
        r#""type": "EDS", "lb_policy": "LEAST_REQUEST", "eds_cluster_config": {{"eds_config": {{"ads": {{}}}}}}, "transport_socket": {{"name": "t", "typed_config": {{{UPSTREAM},
        "sni": "s", "common_tls_context": {{"alpn_protocols": ["osm"], "combined_validation_context": {{"default_validation_context": {{"match_typed_subject_alt_names": [{{"san_type": "URI", "matcher": {{"exact": "spiffe://x"}}}}]}},
        "validation_context_sds_secret_config": {{"name": "trust-bundle"}}}}}}}}}}"#
    ))
    .unwrap();
    assert_eq!(eds.discovery, Discovery::Eds("c".into()));
    let tls = eds.tls.unwrap();
    assert_eq!(
        (tls.trust_bundle.as_deref(), tls.subject_alt_names.len()),
        (Some("trust-bundle"), 1)
    );
    assert_eq!(tls.inline_trust, None);

    refused(
        cluster(r#""type": "STATIC""#),
        &["cds \"c\"", "load_assignment is missing"],
    );
    refused(cluster(r#""type": "EDS", "filters": ["AAAA"]"#), &["filters"]);
    refused(
        cluster(r#""type": "EDS", "transport_socket_matches": ["AAAA"]"#),
        &["transport_socket_matches"],
    );
    refused(
        cluster(&format!(
            r#""type": "EDS", "transport_socket": {{"name": "t", "typed_config": {{{UPSTREAM}}}}}"#
        )),
        &["transport_socket", "roots"],
    );
    refused(
        cluster(&format!(
            r#""type": "EDS", "transport_socket": {{"name": "t", "typed_config": {{{UPSTREAM}, "common_tls_context": {{"validation_context": {{"trust_chain_verification": "ACCEPT_UNTRUSTED"}}}}}}}}"#
        )),
        &[
            "common_tls_context.validation_context",
            "trust_chain_verification",
        ],
    );
    refused(
        cluster(&format!(
            r#""type": "EDS", "transport_socket": {{"name": "t", "typed_config": {{{UPSTREAM}, "common_tls_context": {{"validation_context": {{"trusted_ca": {{"filename": "/etc/passwd"}}}}}}}}}}"#
        )),
        &["may not name files"],
    );
    refused(
        cluster(r#""type": "EDS", "load_balancing_policy": {"policies": []}"#),
        &["load_balancing_policy"],
    );
}

#[test]
fn only_healthy_endpoints_of_the_first_priority_count() {
    let endpoint = |port: u32, health: &str| {
        format!(
            r#"{{"endpoint": {{"address": {{"socket_address": {{"address": "10.0.0.1", "port_value": {port}}}}}}}, "health_status": "{health}",
            "metadata": {{"filter_metadata": {{"weir": {{"principal": "spiffe://p", "workload": "w"}}}}}}}}"#
        )
    };
    let found = read::<eds::ClusterLoadAssignment>(&format!(
        r#"{{"cluster_name": "c", "endpoints": [{{"priority": 1, "lb_endpoints": [{}, {}]}}, {{"lb_endpoints": [{}]}}, {{"priority": 2, "lb_endpoints": [{}]}}]}}"#,
        endpoint(1, "HEALTHY"),
        endpoint(2, "DRAINING"),
        endpoint(3, "UNHEALTHY"),
        endpoint(4, "HEALTHY"),
    ))
    .unwrap();
    assert_eq!(found.endpoints.len(), 1);
    assert_eq!(found.endpoints[0].address.port(), 1);
    assert_eq!(found.endpoints[0].principal.as_deref(), Some("spiffe://p"));
    assert_eq!(found.endpoints[0].workload.name, "w");
}

#[test]
fn secrets_are_read_and_refused() {
    let ca = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let secret = serde_json::json!({
        "name": "s",
        "tls_certificate": {
            "certificate_chain": {"inline_string": ca.cert.pem()},
            "private_key": {"inline_string": ca.signing_key.serialize_pem()},
        },
    });
    let secret = read::<SecretMessage>(&secret.to_string()).unwrap();
    assert!(matches!(secret, crate::model::Secret::Certificate(found) if found.chain.len() == 1));
    refused(
        read::<SecretMessage>(
            r#"{"name": "s", "validation_context": {"trusted_ca": {"inline_string": "no"}}}"#,
        ),
        &["sds \"s\": validation_context.trusted_ca", "no PEM certificate"],
    );
    refused(
        read::<SecretMessage>(r#"{"name": "s", "validation_context": {"crl": {"inline_string": "x"}}}"#),
        &["crl"],
    );
    refused(
        read::<SecretMessage>(r#"{"name": "s"}"#),
        &["only tls_certificate"],
    );
}

#[test]
fn settings_without_effect_are_noted() {
    let message: cds::Cluster =
        from_json(r#"{"name": "c", "type": "EDS", "lb_policy": "MAGLEV", "health_checks": [{}]}"#).unwrap();
    let mut context = Context::new(Origin::Stream);
    assert!(message.decode(&mut context).is_ok());
    assert_eq!(context.ignored.len(), 2);
}

#[test]
fn fields_outside_the_contract_are_noted() {
    let message: cds::Cluster = from_json(r#"{"name": "c", "type": "EDS"}"#).unwrap();
    let mut any = pack(&message);
    // Field 999, a varint.
    any.value.extend([0xb8, 0x3e, 0x01]);
    let mut context = Context::new(Origin::Stream);
    assert!(
        resource(ResourceType::Cluster, &any, &mut context)
            .outcome
            .is_ok()
    );
    assert_eq!(context.unknown.into_iter().collect::<Vec<_>>(), ["Cluster"]);
}

/// Good messages with bytes changed, cut and joined, and noise: an outcome each time, never a panic.
#[test]
fn nothing_panics_whatever_the_bytes() {
    let mut random = StdRng::seed_from_u64(7);
    let seeds: Vec<Vec<u8>> = [
        pack(&from_json::<ListenerMessage>(&format!(r#"{{"name": "l", "filter_chains": [{{"filters": [{TCP}]}}]}}"#)).unwrap()),
        pack(&from_json::<RouteConfiguration>(r#"{"name": "r", "virtual_hosts": [{"domains": ["*"], "routes": [{"match": {"safe_regex": {"regex": "a+"}}, "route": {"cluster": "c", "timeout": "3s"}}]}]}"#).unwrap()),
        pack(&from_json::<cds::Cluster>(r#"{"name": "c", "type": "EDS", "connect_timeout": "1s", "circuit_breakers": {"thresholds": [{"max_connections": 3}]}}"#).unwrap()),
        pack(&from_json::<eds::ClusterLoadAssignment>(r#"{"cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "::1", "port_value": 1}}}}]}]}"#).unwrap()),
        pack(&from_json::<SecretMessage>(r#"{"name": "s", "validation_context": {"trusted_ca": {"inline_string": "x"}}}"#).unwrap()),
    ]
    .into_iter()
    .map(|any| any.value)
    .collect();
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..random.random_range(0..6) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        if random.random_bool(0.2) {
            bytes.truncate(random.random_range(0..bytes.len()));
        }
        if random.random_bool(0.1) {
            bytes = (0..random.random_range(0..64)).map(|_| random.random()).collect();
        }
        for kind in ResourceType::ALL {
            let any = Any {
                type_url: kind.url().to_owned(),
                value: bytes.clone(),
            };
            let _ = resource(kind, &any, &mut Context::new(Origin::Stream));
        }
    }
}

#[test]
fn what_would_have_no_effect_is_refused() {
    let retry = |policy: &str| {
        table(&format!(
            r#"{{"match": {{"prefix": "/"}}, "route": {{"cluster": "c", "retry_policy": {{{policy}}}}}}}"#
        ))
    };
    assert!(retry(r#""retry_on": "5xx, connect-failure,unavailable", "num_retries": 3"#).is_ok());
    refused(
        retry(r#""retry_on": "5xx,now-and-then""#),
        &["retry_policy.retry_on", "\"now-and-then\" is not known"],
    );
    refused(
        retry(r#""retry_on": "5xx", "per_try_idle_timeout": "1s""#),
        &["per_try_idle_timeout"],
    );

    let detection = |body: &str| {
        cluster(&format!(
            r#""type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "outlier_detection": {{{body}}}"#
        ))
    };
    let of = |body: &str| detection(body).unwrap().outlier_detection.unwrap();
    assert_eq!(of("").consecutive_5xx, 5);
    assert_eq!(of(r#""enforcing_consecutive_5xx": 0"#).consecutive_5xx, 0);
    refused(
        detection(r#""enforcing_consecutive_gateway_failure": 100"#),
        &["outlier_detection", "enforcing_consecutive_gateway_failure"],
    );
    refused(
        cluster(
            r#""type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "circuit_breakers": {"thresholds": [{"retry_budget": {}}]}"#,
        ),
        &["circuit_breakers", "retry_budget"],
    );
}
