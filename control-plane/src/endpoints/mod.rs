//! Endpoints providers: where the objects of the mesh come from.
//!
//! A [`Provider`] publishes [`Objects`], everything it knows at one moment. Today there is one, [`Files`], which watches
//! directories of manifests.

mod files;
mod store;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use tokio::sync::watch;

pub use files::{Files, FilesError};
pub use store::Store;

use crate::spec::{
    Diagnostic, HttpRouteGroup, MeshConfig, Object, ObjectName, Stored, TcpRoute, TrafficSplit, TrafficTarget,
};

/// A source of objects.
pub trait Provider {
    /// Its objects, whenever they change.
    fn objects(&self) -> watch::Receiver<Arc<Objects>>;
}

/// Objects of a kind by name. What did not change since the last [`Objects`] is the same `Arc`.
pub type Table<T> = BTreeMap<ObjectName, Arc<Stored<T>>>;

/// Every object a provider knows, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Namespaces.
    pub namespaces: Table<Namespace>,
    /// Services.
    pub services: Table<Service>,
    /// ServiceAccounts.
    pub service_accounts: Table<ServiceAccount>,
    /// Pods.
    pub pods: Table<Pod>,
    /// EndpointSlices.
    pub endpoint_slices: Table<EndpointSlice>,
    /// TrafficTargets.
    pub traffic_targets: Table<TrafficTarget>,
    /// HTTPRouteGroups.
    pub http_route_groups: Table<HttpRouteGroup>,
    /// TCPRoutes.
    pub tcp_routes: Table<TcpRoute>,
    /// TrafficSplits.
    pub traffic_splits: Table<TrafficSplit>,
    /// MeshConfigs.
    pub mesh_configs: Table<MeshConfig>,
    /// What is wrong with the objects, each on its own.
    pub diagnostics: Vec<Diagnostic>,
}

impl Objects {
    /// Adds an object, in place of one of the same kind and name.
    pub fn insert(&mut self, name: ObjectName, object: Object) {
        match object {
            Object::Namespace(it) => drop(self.namespaces.insert(name, it)),
            Object::Service(it) => drop(self.services.insert(name, it)),
            Object::ServiceAccount(it) => drop(self.service_accounts.insert(name, it)),
            Object::Pod(it) => drop(self.pods.insert(name, it)),
            Object::EndpointSlice(it) => drop(self.endpoint_slices.insert(name, it)),
            Object::TrafficTarget(it) => drop(self.traffic_targets.insert(name, it)),
            Object::HttpRouteGroup(it) => drop(self.http_route_groups.insert(name, it)),
            Object::TcpRoute(it) => drop(self.tcp_routes.insert(name, it)),
            Object::TrafficSplit(it) => drop(self.traffic_splits.insert(name, it)),
            Object::MeshConfig(it) => drop(self.mesh_configs.insert(name, it)),
        }
    }
}
