//! The forms a bootstrap may have, and what is said when it has none of them.

mod foreign;

use super::*;
use crate::{
    model::Discovery,
    xds::{Owner, State},
};

fn load(yaml: &str) -> Result<Bootstrap, String> {
    Bootstrap::load(None, Some(yaml), Overrides::default()).map_err(|error| error.to_string())
}

fn authority() -> (String, String) {
    let ca = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    (ca.cert.pem(), ca.signing_key.serialize_pem())
}

/// What the injector writes.
fn injected() -> String {
    let (pem, _) = authority();
    format!(
        r#"
node:
  id: 0b1c
  cluster: bookbuyer.bookbuyer
  metadata: {{ WEIR_TOKEN_PATH: /var/run/secrets/weir/token }}
admin:
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: 15000 }} }}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}]
static_resources:
  secrets:
  - name: trust-bundle
    validation_context:
      trusted_ca: {{ inline_string: {pem:?} }}
  clusters:
  - name: xds
    type: LOGICAL_DNS
    connect_timeout: 0.25s
    load_assignment:
      cluster_name: xds
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: weir-controller.weir-system.svc.cluster.local, port_value: 15128 }} }} }}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: weir-controller.weir-system.svc.cluster.local
        common_tls_context:
          alpn_protocols: [h2]
          tls_certificate_sds_secret_configs: [{{ name: workload-cert }}]
          combined_validation_context:
            default_validation_context:
              match_typed_subject_alt_names: [{{ san_type: DNS, matcher: {{ exact: weir-controller.weir-system.svc.cluster.local }} }}]
            validation_context_sds_secret_config: {{ name: trust-bundle }}
  listeners:
  - name: readiness
    address: {{ socket_address: {{ address: 0.0.0.0, port_value: 15902 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: readiness
          route_config:
            virtual_hosts:
            - name: probes
              domains: ["*"]
              routes:
              - match: {{ prefix: /osm-readiness-probe/app }}
                route: {{ cluster: "probe|8080", prefix_rewrite: /ready, timeout: 1s }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    )
}

#[test]
fn what_the_injector_writes_is_read() {
    let bootstrap = load(&injected()).unwrap();
    assert_eq!(bootstrap.admin, Some("127.0.0.1:15000".parse().unwrap()));
    assert_eq!(
        bootstrap.token_path.as_deref(),
        Some(Path::new("/var/run/secrets/weir/token"))
    );
    let ads = bootstrap.ads.clone().unwrap();
    assert_eq!((ads.protocol, ads.cluster.as_str()), (Protocol::Delta, "xds"));
    assert_eq!(ads.keepalive, Some(Keepalive::default()));
    assert_eq!(
        ads.wildcard,
        BTreeSet::new(),
        "sidecars of the mesh ask on demand"
    );
    let cluster = &bootstrap.clusters[0].value;
    assert!(matches!(&cluster.discovery, Discovery::Dns(names) if names[0].1 == 15128));
    assert_eq!(
        bootstrap.listeners[0].value.address,
        Some("0.0.0.0:15902".parse().unwrap())
    );

    let (store, mut interest) = Store::new();
    bootstrap.publish(&store);
    let own = store.watch::<Secret>(WORKLOAD_CERTIFICATE);
    assert!(matches!(own.current(), State::Pending));
    let _xds = store.watch::<Cluster>("xds");
    assert!(interest.try_recv().is_err(), "neither is asked for upstream");
    let roots = store.watch::<Secret>(TRUST_BUNDLE);
    assert!(roots.current().ready().is_some());
    assert!(
        interest.try_recv().is_ok(),
        "the bundle may be replaced by the server's"
    );
    assert!(store.dump().iter().any(|entry| entry.owner == Owner::Seed));
}

#[test]
fn json_in_camel_case_is_read() {
    let bootstrap = load(
        r#"{"node": {"id": "n"}, "dynamicResources": {"adsConfig": {"apiType": "GRPC", "grpcServices": [{"envoyGrpc": {"clusterName": "x"}}]}},
        "staticResources": {"clusters": [{"name": "x", "connectTimeout": "1s", "upstreamConnectionOptions": {"tcpKeepalive": {"keepaliveTime": 60}},
        "loadAssignment": {"endpoints": [{"lbEndpoints": [{"endpoint": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 15128}}}}]}]}}]}}"#,
    )
    .unwrap();
    assert_eq!(bootstrap.node.id, "n");
    let ads = bootstrap.ads.unwrap();
    assert_eq!((ads.protocol, ads.keepalive), (Protocol::StateOfTheWorld, None));
}

#[test]
fn flags_and_environment_have_the_last_word() {
    let overrides = Overrides {
        node_id: Some("flag".into()),
        node_cluster: None,
        metadata: vec![("A".into(), "env".into()), ("B".into(), "env".into())],
        zone: Some("flag".into()),
        ..Overrides::default()
    };
    let yaml = "node: {id: file, cluster: file, metadata: {A: file}}";
    let bootstrap = Bootstrap::load(None, Some(yaml), overrides).unwrap();
    assert_eq!(
        (bootstrap.node.id.as_str(), bootstrap.node.cluster.as_str()),
        ("flag", "file")
    );
    assert_eq!(bootstrap.node.locality.as_ref().unwrap().zone, "flag");
    assert_eq!(
        resources::metadata_string(&bootstrap.node, "A").as_deref(),
        Some("file")
    );
    assert_eq!(
        resources::metadata_string(&bootstrap.node, "B").as_deref(),
        Some("env")
    );
}

#[test]
fn yaml_is_merged_over_the_file_and_secrets_come_from_files() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (pem, key) = authority();
    std::fs::write(at("cert.pem"), pem).unwrap();
    std::fs::write(at("key.pem"), key).unwrap();
    let sds = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: mine\n  tls_certificate:\n    certificate_chain: {{filename: {:?}}}\n    private_key: {{filename: {:?}}}\n",
        at("cert.pem"),
        at("key.pem")
    );
    std::fs::write(at("sds.yaml"), sds).unwrap();
    let file = format!(
        r#"{{"node": {{"id": "file"}}, "static_resources": {{"listeners": [{{"name": "l", "address": {{"socket_address": {{"address": "::", "port_value": 1}}}}, "filter_chains": [{{
        "transport_socket": {{"name": "t", "typed_config": {{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {{"tls_certificate_sds_secret_configs": [{{"name": "mine", "sds_config": {{"path": {:?}}}}}]}}}}}},
        "filters": [{{"name": "t", "typed_config": {{"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": "c"}}}}]}}]}}]}}}}"#,
        at("sds.yaml")
    );
    std::fs::write(at("bootstrap.json"), file).unwrap();
    let bootstrap = Bootstrap::load(
        Some(&at("bootstrap.json")),
        Some("node: {id: flag}"),
        Overrides::default(),
    )
    .unwrap();
    assert_eq!(bootstrap.node.id, "flag");
    assert_eq!(bootstrap.secrets[0].name, "mine");
    let missing = Bootstrap::load(Some(&at("none")), None, Overrides::default());
    assert!(missing.unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn a_wrong_field_is_named() {
    for (yaml, words) in [
        (
            "static_resources: {listeners: [{name: l, nmae: x}]}",
            "static_resources.listeners[0].nmae: this proxy has no such field",
        ),
        (
            "static_resources: {clusters: [{name: c, connect_timeout: soon}]}",
            "static_resources.clusters[0].connect_timeout",
        ),
        (
            "static_resources: {clusters: [{name: c, type: NEW}]}",
            "static_resources.clusters[0].type",
        ),
        ("static_resources: {listeners: 7}", "static_resources.listeners"),
        (
            "layered_runtim: {}",
            "layered_runtim: this proxy has no such field",
        ),
        (
            "admin: {address: {socket_address: {address: here, port_value: 1}}}",
            "\"here\" is not an IP address",
        ),
        ("node: [", "--config-yaml"),
        (
            "static_resources: {clusters: [{name: c, type: EDS}, {name: c, type: EDS}]}",
            "twice",
        ),
        ("dynamic_resources: {ads_config: {api_type: REST}}", "api_type"),
        (
            "dynamic_resources: {ads_config: {api_type: DELTA_GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}",
            "\"x\" is not among",
        ),
        (
            "static_resources: {clusters: [{name: c, transport_socket: {name: t, typed_config: {\"@type\": type.googleapis.com/Odd}}}]}",
            "static_resources.clusters[0].transport_socket.typed_config",
        ),
        (
            "static_resources: {clusters: [{name: c, transport_socket: {name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, snni: x}}}]}",
            "transport_socket.typed_config.snni",
        ),
    ] {
        let error = load(yaml).unwrap_err();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}

#[test]
fn what_has_the_aggregated_stream_for_its_source_is_asked_for_whole() {
    let dynamic = |sources: &str| {
        load(&format!(
            "{{node: {{id: me}}, static_resources: {{clusters: [{{name: x, type: EDS}}]}}, dynamic_resources: {{{sources}}}}}"
        ))
    };
    let stream = "ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}";
    let whole =
        |sources: &str| dynamic(&format!("{stream}, {sources}")).map(|read| read.ads.unwrap().wildcard);
    let (lds, cds) = (
        "lds_config: {ads: {}}",
        "cds_config: {ads: {}, resource_api_version: V3}",
    );
    assert_eq!(whole(lds), Ok(BTreeSet::from([ResourceType::Listener])));
    let both = BTreeSet::from([ResourceType::Cluster, ResourceType::Listener]);
    assert_eq!(whole(&format!("{lds}, {cds}")), Ok(both));
    for refused in [
        dynamic(lds).map(drop),
        dynamic(&format!("{stream}, cds_config: {{path: /etc/cds.yaml}}")).map(drop),
        dynamic(&format!("{stream}, cds_config: {{}}")).map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(error.contains("only the aggregated stream"), "{error}");
    }
}

#[test]
fn what_only_runs_envoy_is_left_out_and_told() {
    let yaml = "{statsConfig: {}, layered_runtime: {layers: [{}]}, admin: {access_log_path: /dev/null}}";
    let ignored = load(yaml).unwrap().ignored;
    assert_eq!(
        ignored,
        ["admin.access_log_path", "layered_runtime", "statsConfig"]
    );
}

#[test]
fn unknown_fields_are_told_when_the_flag_allows_them() {
    let yaml = "{static_resources: {clusters: [{name: c, type: EDS, odd: {}, transport_socket: {name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, odd: x, common_tls_context: {validation_context_sds_secret_config: {name: a}}}}}]}}";
    assert!(load(yaml).unwrap_err().contains("--allow-unknown-static-fields"));
    let overrides = Overrides {
        allow_unknown: true,
        ..Overrides::default()
    };
    let bootstrap = Bootstrap::load(None, Some(yaml), overrides).unwrap();
    let cluster = "static_resources.clusters[0]";
    let socket = format!("{cluster}.transport_socket.typed_config.odd");
    assert_eq!(bootstrap.ignored, [format!("{cluster}.odd"), socket]);
}
