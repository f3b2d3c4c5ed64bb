//! Explains what is wrong with one object on its own. Pure; the files provider asks it for each object it reads, and
//! an admission webhook can ask it the same.

mod mesh_config;
mod smi;
#[cfg(test)]
mod tests;

pub use mesh_config::mesh_config;
pub use smi::{http_route_group, tcp_route, traffic_split, traffic_target};
