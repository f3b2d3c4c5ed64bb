//! Listeners and what is in them.

use super::*;

#[test]
fn an_inbound_listener_is_read() {
    let listener = listener(&format!(
        r#""traffic_direction": "INBOUND", "listener_filters": [{{"name": "envoy.filters.listener.original_dst"}},
        {{"name": "envoy.filters.listener.tls_inspector"}}], "filter_chains": [{{"name": "inbound_a/b_80_http",
        "filter_chain_match": {{"destination_port": 80, "transport_protocol": "tls", "application_protocols": ["osm"]}},
        "transport_socket": {{"name": "tls", "typed_config": {{{DOWNSTREAM}, "require_client_certificate": true,
            "common_tls_context": {{"tls_certificate_sds_secret_configs": [{{"name": "workload-cert", "sds_config": {{"ads": {{}}}}}}],
            "validation_context_sds_secret_config": {{"name": "trust-bundle", "sds_config": {{"ads": {{}}}}}}, "alpn_protocols": ["osm"]}}}}}},
        "filters": [{{"name": "n", "typed_config": {{"@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
            "stat_prefix": "x", "rules": {{"policies": {{"ns/t": {{"permissions": [{{"any": true}}], "principals": [{{"authenticated": {{"principal_name": {{"exact": "spiffe://a"}}}}}}]}}}}}}}}}},
            {{"name": "h", "typed_config": {{{HCM}, "rds": {{"route_config_name": "inbound|80", "config_source": {{"ads": {{}}}}}}, "upgrade_configs": [{{"upgrade_type": "WebSocket"}}], "http_filters": [{{"name": "a", "typed_config": {{{RBAC}}}}}, {ROUTER}]}}}}]}}]"#
    ))
    .unwrap();
    assert!(listener.original_dst && listener.inspect.tls && !listener.inspect.http);
    let chain = &listener.chains[0];
    assert_eq!(chain.matches.destination_port, Some(80));
    assert_eq!(chain.tls.as_ref().unwrap().certificate, "workload-cert");
    assert!(matches!(&chain.network[0], Network::Rbac(Some(rbac)) if rbac.policies[0].name == "ns/t"));
    let Terminal::Http(http) = &chain.terminal else {
        panic!("{chain:?}")
    };
    assert_eq!(http.routes, RouteSource::Rds("inbound|80".into()));
    assert_eq!(http.rbac, Some(None));
    assert_eq!(http.upgrades, ["websocket"]);
}

#[test]
fn listeners_are_refused_with_the_place() {
    refused(
        listener(r#""filter_chains": [{"filters": []}]"#),
        &["lds \"l\": filter_chains[0]", "empty"],
    );
    let odd = r#"{"name": "o", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}"#;
    refused(
        listener(&format!(r#""filter_chains": [{{"filters": [{odd}, {TCP}]}}]"#)),
        &["filter_chains[0].filters[0]", "not known"],
    );
    refused(
        listener(&format!(r#""filter_chains": [{{"filters": [{TCP}, {TCP}]}}]"#)),
        &["last"],
    );
    refused(
        listener(&format!(
            r#""filter_chains": [{{"filters": [{TCP}]}}, {{"filters": [{TCP}]}}]"#
        )),
        &["filter_chains[1]", "same match"],
    );
    refused(listener(r#""api_listener": "AAAA""#), &["api_listener"]);
    refused(
        listener(r#""additional_addresses": ["AAAA"]"#),
        &["additional_addresses"],
    );
    refused(
        listener(r#""listener_filters": [{"name": "proxy_protocol"}]"#),
        &["listener_filters[0]", "proxy_protocol"],
    );
    refused(
        listener(&format!(
            r#""filter_chains": [{{"filters": [{TCP}], "filter_chain_match": {{"suffix_len": "AAAA"}}}}]"#
        )),
        &["suffix_len"],
    );
    refused(
        read::<ListenerMessage>(r#"{"name": "l"}"#),
        &["address is missing"],
    );
    refused(
        listener(&format!(
            r#""filter_chains": [{{"filters": [{TCP}], "transport_socket": {{"name": "t", "typed_config": {{{DOWNSTREAM}}}}}}}]"#
        )),
        &["needs a certificate"],
    );
}

#[test]
fn managers_are_refused_with_the_place() {
    let rds = r#""rds": {"route_config_name": "r"}"#;
    assert!(manager(&format!(r#"{rds}, "http_filters": [{ROUTER}]"#)).is_ok());
    refused(manager(rds), &["must end with the router"]);
    refused(
        manager(&format!(r#"{rds}, "http_filters": [{ROUTER}, {ROUTER}]"#)),
        &["http_filters[1]", "last"],
    );
    refused(
        manager(&format!(r#""http_filters": [{ROUTER}]"#)),
        &["neither rds nor route_config"],
    );
    let ext_authz = r#""name": "e", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"}"#;
    refused(
        manager(&format!(r#"{rds}, "http_filters": [{{{ext_authz}}}, {ROUTER}]"#)),
        &["http_filters[0]", "ExtAuthz", "not supported"],
    );
    let optional = format!(r#"{rds}, "http_filters": [{{{ext_authz}, "is_optional": true}}, {ROUTER}]"#);
    assert!(manager(&optional).is_ok());
    refused(
        manager(&format!(
            r#"{rds}, "forward_client_cert_matcher": "AAAA", "http_filters": [{ROUTER}]"#
        )),
        &["forward_client_cert_matcher"],
    );
    let rbac = |policy: &str| {
        manager(&format!(
            r#"{rds}, "http_filters": [{{"name": "a", "typed_config": {{{RBAC}, "rules": {{"policies": {{"p": {policy}}}}}}}}}, {ROUTER}]"#
        ))
    };
    refused(
        rbac(r#"{"permissions": [{"any": true}]}"#),
        &["policies[\"p\"]", "at least one"],
    );
    refused(
        rbac(r#"{"permissions": [{"any": true}], "principals": [{"any": true}], "condition": "AAAA"}"#),
        &["condition"],
    );
    refused(
        rbac(r#"{"permissions": [{"any": true}], "principals": [{"filter_state": "AAAA"}]}"#),
        &["principals[0]", "filter_state"],
    );
    refused(
        rbac(r#"{"permissions": [{}], "principals": [{"any": true}]}"#),
        &["permissions[0]"],
    );
}

#[test]
fn the_access_log_goes_to_stdout_with_known_fields() {
    let log = |config: &str| {
        manager(&format!(
            r#""rds": {{"route_config_name": "r"}}, "http_filters": [{ROUTER}], "access_log": [{{"name": "l", "typed_config": {{"@type": "type.googleapis.com/envoy.extensions.access_loggers.{config}}}}}]"#
        ))
    };
    let logs = |listener: Listener| match &listener.chains[0].terminal {
        Terminal::Http(http) => http.access_log,
        Terminal::Tcp(_) => false,
    };
    for config in [
        r#"stream.v3.StdoutAccessLog""#,
        r#"stream.v3.StdoutAccessLog", "log_format": {"json_format": {"path": "%REQ(:PATH)%"}}"#,
        r#"file.v3.FileAccessLog", "path": "/dev/stdout""#,
    ] {
        assert!(logs(log(config).unwrap()), "{config}");
    }
    refused(
        log(r#"file.v3.FileAccessLog", "path": "/var/log/a""#),
        &["access_log[0]", "/dev/stdout"],
    );
    refused(
        log(r#"stream.v3.StdoutAccessLog", "log_format": {"json_format": {"pod": "x"}}"#),
        &["\"pod\""],
    );
}
