//! A real Kubernetes for tests: an API server with etcd ([`ApiServer`]), or a whole node in namespaces of its own
//! ([`Node`]).

pub mod api_server;
mod dns;
pub mod node;
pub mod pki;
pub mod process;
pub mod programs;

pub use api_server::ApiServer;
pub use node::Node;
