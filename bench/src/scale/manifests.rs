//! The mesh as Kubernetes objects.

use serde_json::{Value, json};

use super::layout::{APP_PORT, Layout, PORT};

/// Kubernetes namespace of the control plane.
pub(super) const SYSTEM: &str = "weir-system";

/// The MeshConfig: policy comes from TrafficTargets.
pub(super) fn mesh_config() -> Value {
    json!({
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": { "name": "osm-mesh-config", "namespace": SYSTEM },
        "spec": { "traffic": { "enablePermissiveTrafficPolicyMode": false, "enableEgress": false } },
    })
}

pub(super) fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": { "openservicemesh.io/monitored-by": "osm" } },
    })
}

/// An app: its account, who may call it, its pods and services.
pub(super) fn app(layout: &Layout, app: usize) -> Vec<Value> {
    let (namespace, name) = (layout.namespace(app), layout.app_name(app));
    let metadata = json!({ "name": name, "namespace": namespace });
    let mut objects = vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
        json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4",
            "kind": "HTTPRouteGroup",
            "metadata": metadata,
            "spec": { "matches": [{ "name": "all", "pathRegex": "/.*", "methods": ["*"] }] },
        }),
        traffic_target(layout, app),
    ];
    objects.extend(layout.pods_of(app).map(|pod| self::pod(layout, pod)));
    objects.extend(
        layout
            .services_of(app)
            .map(|service| self::service(layout, service)),
    );
    objects
}

fn traffic_target(layout: &Layout, app: usize) -> Value {
    let mut clients: Vec<usize> = layout
        .services_of(app)
        .flat_map(|service| layout.users_of(service).0)
        .collect();
    clients.sort_unstable();
    clients.dedup();
    let account = |app: usize| json!({ "kind": "ServiceAccount", "name": layout.app_name(app), "namespace": layout.namespace(app) });
    let name = layout.app_name(app);
    json!({
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": { "name": name, "namespace": layout.namespace(app) },
        "spec": {
            "destination": account(app),
            "rules": [{ "kind": "HTTPRouteGroup", "name": name, "matches": ["all"] }],
            "sources": clients.into_iter().map(account).collect::<Vec<_>>(),
        },
    })
}

/// A pod with its status, which an API server does not take with it.
pub(super) fn pod(layout: &Layout, pod: usize) -> Value {
    let app = layout.app_of_pod(pod);
    let name = layout.app_name(app);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": layout.pod_name(pod),
            "namespace": layout.namespace(app),
            "uid": layout.pod_uid(pod),
            "labels": { "app": name },
        },
        "spec": {
            "serviceAccountName": name,
            "containers": [{ "name": "app", "image": "app" }, { "name": "weir-proxy", "image": "weir-proxy" }],
        },
        "status": status(layout, pod),
    })
}

/// What a kubelet would say of a pod.
pub(super) fn status(layout: &Layout, pod: usize) -> Value {
    json!({ "phase": "Running", "podIP": layout.pod_ip(pod).to_string() })
}

fn service(layout: &Layout, service: usize) -> Value {
    let app = layout.app_of_service(service);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": layout.service_name(service), "namespace": layout.namespace(app) },
        "spec": {
            "clusterIP": layout.cluster_ip(service).to_string(),
            "ports": [{ "name": "http", "port": PORT, "targetPort": APP_PORT, "appProtocol": "http" }],
        },
    })
}

/// The endpoints of a service; the first pod is ready or not.
pub(super) fn slice(layout: &Layout, service: usize, first_is_ready: bool) -> Value {
    let app = layout.app_of_service(service);
    let (namespace, name) = (layout.namespace(app), layout.service_name(service));
    let pods = layout.pods_of(app);
    let first = pods.start;
    let endpoints: Vec<_> = pods
        .map(|pod| {
            json!({
                "addresses": [layout.pod_ip(pod).to_string()],
                "conditions": { "ready": pod != first || first_is_ready },
                "targetRef": { "kind": "Pod", "name": layout.pod_name(pod), "namespace": namespace },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": { "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": APP_PORT, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}
