//! A real Kubernetes for tests, in namespaces of its own: an API server with etcd, or a whole node ([`Node`]).

mod dns;
pub mod node;
pub mod pki;
pub mod process;

pub use node::Node;
