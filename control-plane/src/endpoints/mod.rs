//! Endpoints providers: where the objects of the mesh come from.
//!
//! A [`Provider`] publishes [`Objects`], everything it knows at one moment: [`Files`] watches directories of manifests,
//! [`Kubernetes`] an API server. [`list`] reads an API server once.

mod files;
mod kubernetes;
mod store;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use tokio::sync::watch;

pub use files::{Files, FilesError};
pub use kubernetes::{Kubernetes, KubernetesMetrics, KubernetesOptions, ListError, Revision, list};
pub use store::Store;

use crate::spec::{
    Diagnostic, HttpRouteGroup, Key, MeshConfig, Object, ObjectName, Stored, TcpRoute, TrafficSplit,
    TrafficTarget,
};

/// A source of objects.
pub trait Provider {
    /// Its objects, whenever they change.
    fn objects(&self) -> watch::Receiver<Arc<Objects>>;
}

/// Objects of a kind by name. What did not change since the last [`Objects`] is shared with it.
pub type Table<T> = crate::table::Table<ObjectName, Arc<Stored<T>>>;

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
    /// Every policy object of a cluster, whether in force or not; empty where objects come from files.
    pub policies: crate::table::Table<Key, Arc<Revision>>,
    /// Kinds of policy that the cluster has no definition of.
    pub missing: BTreeSet<&'static str>,
    /// What is wrong with the objects, each on its own.
    pub diagnostics: Arc<Vec<Diagnostic>>,
}

/// Does the same with whichever table holds a kind.
macro_rules! with_table {
    ([$($borrow:tt)+] $objects:ident, $kind:expr, $table:ident => $then:expr, $otherwise:expr) => {
        match $kind {
            "Namespace" => {
                let $table = $($borrow)+ $objects.namespaces;
                $then
            }
            "Service" => {
                let $table = $($borrow)+ $objects.services;
                $then
            }
            "ServiceAccount" => {
                let $table = $($borrow)+ $objects.service_accounts;
                $then
            }
            "Pod" => {
                let $table = $($borrow)+ $objects.pods;
                $then
            }
            "EndpointSlice" => {
                let $table = $($borrow)+ $objects.endpoint_slices;
                $then
            }
            "TrafficTarget" => {
                let $table = $($borrow)+ $objects.traffic_targets;
                $then
            }
            "HTTPRouteGroup" => {
                let $table = $($borrow)+ $objects.http_route_groups;
                $then
            }
            "TCPRoute" => {
                let $table = $($borrow)+ $objects.tcp_routes;
                $then
            }
            "TrafficSplit" => {
                let $table = $($borrow)+ $objects.traffic_splits;
                $then
            }
            "MeshConfig" => {
                let $table = $($borrow)+ $objects.mesh_configs;
                $then
            }
            _ => $otherwise,
        }
    };
}

impl Objects {
    /// Adds an object, in place of one of the same kind and name. `false`: there was an equal one, which stays.
    pub fn insert(&mut self, name: ObjectName, object: Object) -> bool {
        match object {
            Object::Namespace(it) => put(&mut self.namespaces, name, it),
            Object::Service(it) => put(&mut self.services, name, it),
            Object::ServiceAccount(it) => put(&mut self.service_accounts, name, it),
            Object::Pod(it) => put(&mut self.pods, name, it),
            Object::EndpointSlice(it) => put(&mut self.endpoint_slices, name, it),
            Object::TrafficTarget(it) => put(&mut self.traffic_targets, name, it),
            Object::HttpRouteGroup(it) => put(&mut self.http_route_groups, name, it),
            Object::TcpRoute(it) => put(&mut self.tcp_routes, name, it),
            Object::TrafficSplit(it) => put(&mut self.traffic_splits, name, it),
            Object::MeshConfig(it) => put(&mut self.mesh_configs, name, it),
        }
    }

    /// Removes an object. `false`: there was none.
    pub fn remove(&mut self, kind: &str, name: &ObjectName) -> bool {
        with_table!([&mut] self, kind, table => {
            table.remove(name).is_some()
        }, false)
    }

    /// Whether there is such an object.
    #[must_use]
    pub fn contains(&self, kind: &str, name: &ObjectName) -> bool {
        with_table!([&] self, kind, table => table.contains_key(name), false)
    }

    /// The names of the objects of a kind.
    #[must_use]
    pub fn names(&self, kind: &str) -> Vec<ObjectName> {
        with_table!([&] self, kind, table => table.keys().cloned().collect(), Vec::new())
    }
}

fn put<T: PartialEq>(table: &mut Table<T>, name: ObjectName, object: Arc<Stored<T>>) -> bool {
    // The same `Arc` is not looked into.
    if table
        .get(&name)
        .is_some_and(|known| Arc::ptr_eq(known, &object) || *known == object)
    {
        return false;
    }
    table.insert(name, object);
    true
}
