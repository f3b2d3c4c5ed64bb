//! What the resources of a small mesh look like, and that a stock Envoy accepts every one of them.
//!
//! `UPDATE_GOLDEN=1` writes the files anew; read the difference before you commit it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::Arc,
};

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, json};
use weir_controller::catalog::{Authorization, Backend, InboundPort, Pod, Protocol, Snapshot};
use weir_xds::{FILE_DESCRIPTOR_SET, ResourceType};

use crate::mesh::{Controller, Delta, STORE, key, mesh, service};

/// Every protocol, a split, a service that nobody may reach, and a pod that serves some of them.
pub(crate) fn varied() -> Snapshot {
    let mut snapshot = mesh();
    for (n, name, protocol) in [
        (3, "database", Protocol::TcpServerFirst),
        (4, "plain", Protocol::Undeclared),
        (5, "hidden", Protocol::Http),
        (6, "apex", Protocol::Grpc),
    ] {
        let mut service = service(name, n, protocol);
        service.reachable = name != "hidden";
        if name == "apex" {
            let backend = |name, weight| Backend {
                service: key(name),
                weight,
            };
            service.split = Some(vec![
                backend("bookstore", 90),
                backend("warehouse", 10),
                backend("plain", 0),
            ]);
            service.principals.clear();
        }
        snapshot
            .addresses
            .insert(service.cluster_ips[0], service.key.clone());
        snapshot.services.insert(service.key.clone(), Arc::new(service));
    }
    let mut store: Pod = (**snapshot.pods.get(STORE).unwrap()).clone();
    let authorization = store.inbound[0].authorization.clone();
    for (port, protocol, name, authorization) in [
        (3306, Protocol::TcpServerFirst, "database", authorization.clone()),
        (9000, Protocol::Undeclared, "plain", authorization),
        (9001, Protocol::Http, "open", Arc::new(Authorization::Permissive)),
    ] {
        store.inbound.push(InboundPort {
            port,
            protocol,
            services: vec![key(name)],
            authorization,
        });
    }
    snapshot.pods.insert(store.uid.clone(), Arc::new(store));
    snapshot
}

/// Where Envoy's certificate is in a pod.
const SECRET_IN_POD: &str = "/var/run/weir/workload-cert.json";

type Resources = BTreeMap<String, Value>;

/// Every resource of a type that a wildcard subscriber or one by name gets, as JSON.
async fn take(stream: &mut Delta, kind: ResourceType, names: &[String]) -> Resources {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let names = names.to_vec();
    stream
        .send(kind, |request| request.resource_names_subscribe = names)
        .await;
    let response = stream.next().await.unwrap();
    assert_eq!(response.removed_resources, Vec::<String>::new());
    let options = SerializeOptions::new().use_proto_field_name(true);
    let text = |resource: weir_xds::envoy::service::discovery::v3::Resource| {
        let any = resource.resource.unwrap();
        let name = any.type_url.rsplit('/').next().unwrap();
        let message = pool.get_message_by_name(name).unwrap();
        let message = DynamicMessage::decode(message, any.value.as_slice()).unwrap();
        let value = message
            .serialize_with_options(serde_json::value::Serializer, &options)
            .unwrap();
        (resource.name, value)
    };
    response.resources.into_iter().map(text).collect()
}

fn compare(file: &str, resources: &Resources) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/serve/golden")
        .join(file);
    let text = format!("{:#}\n", json!(resources));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{file} differs");
}

/// The name that a cluster's endpoints have, when they come by name.
fn endpoints_name(cluster: &Value) -> Option<String> {
    let by_name = cluster.get("eds_cluster_config")?;
    let name = by_name.get("service_name").or_else(|| cluster.get("name"))?;
    name.as_str().map(str::to_owned)
}

/// References to routes by name, in document order.
fn route_names(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(name)) = fields.get("route_config_name") {
                names.push(name.clone());
            }
            fields.values().for_each(|value| route_names(value, names));
        }
        Value::Array(values) => values.iter().for_each(|value| route_names(value, names)),
        _ => {}
    }
}

#[tokio::test]
async fn a_stock_envoy_gets_everything_as_written_and_accepts_it() {
    let controller = Controller::start_with(tempfile::tempdir().unwrap(), varied()).await;
    let certificate = controller.certificate("bookstore").await;
    let mut stream = Delta::open(&controller, &certificate, STORE)
        .await
        .unwrap()
        .saying_envoy();
    let clusters = take(&mut stream, ResourceType::Cluster, &[]).await;
    compare("clusters.json", &clusters);
    let services: BTreeSet<_> = clusters.values().filter_map(endpoints_name).collect();
    let services: Vec<_> = services.into_iter().collect();
    let endpoints = take(&mut stream, ResourceType::Endpoints, &services).await;
    compare("endpoints.json", &endpoints);
    let listeners = take(&mut stream, ResourceType::Listener, &[]).await;
    compare("listeners.json", &listeners);
    let mut names = Vec::new();
    listeners
        .values()
        .for_each(|listener| route_names(listener, &mut names));
    names.sort_unstable();
    names.dedup();
    let routes = take(&mut stream, ResourceType::Route, &names).await;
    compare("routes.json", &routes);

    let secret = json!({"resources": [{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "workload-cert",
        "tls_certificate": {
            "certificate_chain": {"inline_string": certificate.chain[0]},
            "private_key": {"inline_string": certificate.key.serialize_pem()},
        },
    }]});
    accept_by_envoy(&bootstrap(&listeners, &clusters, &routes), &secret);
}

/// Routes stand inline in listeners of their own: RDS has no static form.
fn bootstrap(listeners: &Resources, clusters: &Resources, routes: &Resources) -> Value {
    let holders = routes.iter().enumerate().map(|(n, (name, routes))| {
        let manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        json!({
            "name": format!("routes-{n}"),
            "bind_to_port": false,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 20000 + n}},
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": format!("type.googleapis.com/{manager}"),
                    "stat_prefix": name,
                    "route_config": routes,
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                    }],
                },
            }]}],
        })
    });
    let mut all: Vec<_> = listeners.values().cloned().collect();
    all.extend(holders);
    let mut static_clusters: Vec<_> = clusters.values().cloned().collect();
    static_clusters.push(json!({
        "name": "xds",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
    }));
    json!({
        "node": {"id": STORE, "cluster": "test"},
        "dynamic_resources": {"ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
        }},
        "static_resources": {
            "listeners": all,
            "clusters": static_clusters,
        },
    })
}

fn accept_by_envoy(bootstrap: &Value, secret: &Value) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bootstrap.json");
    let secret_path = directory.path().join("workload-cert.json");
    fs::write(&secret_path, secret.to_string()).unwrap();
    let text = bootstrap.to_string();
    let text = text.replace(SECRET_IN_POD, &secret_path.display().to_string());
    fs::write(&path, text).unwrap();
    let envoy = Command::new("envoy")
        .args(["--mode", "validate", "--log-level", "error", "-c"])
        .arg(&path)
        .output();
    match envoy {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "envoy refuses the resources: {said}");
        }
        Err(error) => eprintln!("not checked with Envoy: cannot run `envoy`: {error}"),
    }
}
