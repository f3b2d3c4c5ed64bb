//! What of an object is kept. Ten thousand pods are in memory at once, most of each never read; and what is not kept
//! can change without waking anyone.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        core::v1::{Container, Namespace, Pod, PodSpec, PodStatus, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::spec::{Object, PROXY_CONTAINER, Stored};

const OURS: &str = "openservicemesh.io/";
/// Label of a pod that tells the Deployment from its ReplicaSet.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Drops what nobody reads.
pub(super) fn object(object: Object) -> Object {
    match object {
        Object::Namespace(it) => Object::Namespace(with(it, namespace)),
        Object::Service(it) => Object::Service(with(it, service)),
        Object::ServiceAccount(it) => Object::ServiceAccount(with(it, service_account)),
        Object::Pod(it) => Object::Pod(with(it, pod)),
        Object::EndpointSlice(it) => Object::EndpointSlice(with(it, endpoint_slice)),
        Object::TrafficTarget(it) => Object::TrafficTarget(with(it, |it| policy(&mut it.metadata))),
        Object::HttpRouteGroup(it) => Object::HttpRouteGroup(with(it, |it| policy(&mut it.metadata))),
        Object::TcpRoute(it) => Object::TcpRoute(with(it, |it| policy(&mut it.metadata))),
        Object::TrafficSplit(it) => Object::TrafficSplit(with(it, |it| policy(&mut it.metadata))),
        Object::MeshConfig(it) => Object::MeshConfig(with(it, |it| policy(&mut it.metadata))),
    }
}

fn with<T: Clone>(mut stored: Arc<Stored<T>>, trim: fn(&mut T)) -> Arc<Stored<T>> {
    trim(&mut Arc::make_mut(&mut stored).value);
    stored
}

/// Name, namespace, UID, age and owner; labels as far as wanted; annotations of the mesh.
fn metadata(of: &mut ObjectMeta, label: fn(&str) -> bool) {
    let mut labels = of.labels.take();
    if let Some(labels) = &mut labels {
        labels.retain(|name, _| label(name));
    }
    let mut annotations = of.annotations.take();
    if let Some(annotations) = &mut annotations {
        annotations.retain(|name, _| name.starts_with(OURS));
    }
    *of = ObjectMeta {
        name: of.name.take(),
        namespace: of.namespace.take(),
        uid: of.uid.take(),
        creation_timestamp: of.creation_timestamp.take(),
        owner_references: of.owner_references.take(),
        labels: labels.filter(|labels| !labels.is_empty()),
        annotations: annotations.filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    };
}

fn policy(of: &mut ObjectMeta) {
    metadata(of, |_| true);
}

fn namespace(it: &mut Namespace) {
    metadata(&mut it.metadata, |_| true);
    (it.spec, it.status) = (None, None);
}

fn service(it: &mut Service) {
    metadata(&mut it.metadata, |_| true);
    it.status = None;
}

fn service_account(it: &mut ServiceAccount) {
    metadata(&mut it.metadata, |name| name.starts_with(OURS));
    *it = ServiceAccount {
        metadata: std::mem::take(&mut it.metadata),
        ..ServiceAccount::default()
    };
}

fn pod(it: &mut Pod) {
    let meta = &mut it.metadata;
    metadata(meta, |name| name == TEMPLATE_HASH || name.starts_with(OURS));
    meta.creation_timestamp = None;
    if let Some(owners) = &mut meta.owner_references {
        owners.retain(|owner| owner.controller == Some(true));
        owners.iter_mut().for_each(|owner| owner.uid = String::new());
    }
    it.spec = it.spec.take().map(|spec| PodSpec {
        service_account_name: spec.service_account_name,
        host_network: spec.host_network,
        containers: proxies(spec.containers),
        init_containers: spec.init_containers.map(proxies).filter(|some| !some.is_empty()),
        ..PodSpec::default()
    });
    it.status = it.status.take().map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        // Of a single address `podIP` says it all.
        pod_ips: status.pod_ips.filter(|ips| ips.len() > 1),
        ..PodStatus::default()
    });
}

/// The sidecar's name and image.
fn proxies(containers: Vec<Container>) -> Vec<Container> {
    let mut proxies: Vec<Container> = containers
        .into_iter()
        .filter(|container| container.name == PROXY_CONTAINER)
        .map(|container| Container {
            name: container.name,
            image: container.image,
            ..Container::default()
        })
        .collect();
    proxies.shrink_to_fit();
    proxies
}

fn endpoint_slice(it: &mut EndpointSlice) {
    metadata(&mut it.metadata, |name| name == SERVICE_NAME);
    it.metadata.owner_references = None;
    it.metadata.creation_timestamp = None;
    for endpoint in &mut it.endpoints {
        endpoint.deprecated_topology = None;
        endpoint.hints = None;
        endpoint.node_name = None;
        endpoint.zone = None;
        if let Some(target) = &mut endpoint.target_ref {
            target.api_version = None;
            target.field_path = None;
            target.resource_version = None;
            target.namespace = None;
        }
    }
}
