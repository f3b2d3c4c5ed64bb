//! Explains what is wrong with one object on its own. Pure; the endpoints providers ask it for each object they read,
//! and [`Webhook`] before the API server stores one.

mod mesh_config;
mod policy;
mod smi;
#[cfg(test)]
mod tests;
mod webhook;

pub use mesh_config::mesh_config;
pub use policy::{egress, ingress_backend, retry, upstream_traffic_setting};
pub use smi::{http_route_group, tcp_route, traffic_split, traffic_target};
pub use webhook::Webhook;
