//! The mesh catalog: every object of the mesh joined into one immutable [`Snapshot`]. Pure: objects in,
//! snapshot out; no I/O and no clock.

mod snapshot;

pub use snapshot::{
    Authorization, Backend, Endpoint, HttpRule, InboundPort, MeshSettings, Pod, Protocol, Rule, Service,
    ServiceKey, ServicePort, Snapshot, TcpRule, TlsSettings, Workload,
};
