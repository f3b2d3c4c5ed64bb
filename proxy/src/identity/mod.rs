//! The proxy's own identity, and its way to the control plane.
//!
//! The [`Agent`] makes a key that never leaves this process, has it signed, and publishes the certificate as the
//! secret `workload-cert`; TLS takes it from there. [`connector`] opens the connections that the signing request
//! and the configuration stream run on. [`Status`] is what metrics and the admin page show of it. With
//! `--mode identity` that is all the process does: another proxy beside it, in the same pod, reads [`Files`].

mod agent;
mod control_plane;
mod details;
mod files;
mod request;
mod schedule;
#[cfg(test)]
mod tests;

pub use agent::Agent;
pub use control_plane::{ControlPlaneError, Credentials, authority, connector};
pub use details::{Details, Status};
pub use files::Files;
pub use request::IssueError;
