//! The mesh catalog: every object of the mesh joined into one immutable [`Snapshot`]. Pure: objects in,
//! snapshot out; no I/O and no clock.
//!
//! [`build`] does it all, in steps that each read the objects and what the steps before them made:
//! which namespaces belong to the mesh, its settings → pods with a sidecar → services and their endpoints →
//! who may reach a ServiceAccount → splits. [`Catalog`] comes to the same at the cost of what changed since the last
//! time; [`follow`] keeps it going.

mod authorization;
mod build;
mod endpoints;
mod follow;
mod inbound;
mod incremental;
mod index;
mod mesh;
mod pods;
mod policy;
mod protocol;
mod services;
mod snapshot;
mod splits;
#[cfg(test)]
mod tests;

pub use build::{Settings, build};
pub use follow::{Metrics, follow};
pub use incremental::Catalog;
pub use snapshot::{
    Authorization, Backend, Endpoint, HttpRule, InboundPort, MeshSettings, Pod, Protocol, Rule, Service,
    ServiceKey, ServicePort, Snapshot, TcpRule, TlsSettings, Workload,
};
