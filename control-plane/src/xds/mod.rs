//! The proxy control plane: from snapshots to resources to the sidecars that subscribed to them.
//!
//! Life of a change: a new [`Snapshot`](crate::catalog::Snapshot) reaches [`Hub::publish`], which compares it with
//! the last one (`changes`) and wakes the sessions that subscribed to something touched, no others. A session
//! (a `machine`: `delta` or `sotw`, both pure) looks up its touched names through its `View`; `cache` builds and
//! encodes a shared resource once for everybody; what has another version than the client holds is sent.
//! `resources` says what a resource contains, `names` which names there are, `server` owns streams and
//! authentication, `service` HTTP, `connection` HTTP/2, `accept` TLS.

mod accept;
mod cache;
mod changes;
mod connection;
mod delta;
mod hub;
mod machine;
mod metrics;
mod names;
mod pace;
mod requests;
mod resources;
mod server;
mod service;
mod sotw;
mod streams;
#[cfg(test)]
mod tests;
mod view;

pub use accept::{Door, Peer};
pub use connection::Services;
pub use hub::{Hub, SessionInfo};
pub use metrics::Metrics;
pub use service::Discovery;
