//! HTTP: serving clients, forwarding to clusters, and answering in the proxy's own name.

mod body;
mod forward;
mod headers;
pub mod limits;
pub mod rescue;
mod server;
mod upgrade;

pub use body::{Body, BodyError};
pub use server::{Session, serve};
