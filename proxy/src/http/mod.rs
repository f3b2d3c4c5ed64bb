//! HTTP: serving clients, forwarding to clusters, and answering in the proxy's own name.

mod access;
mod again;
mod body;
pub(crate) mod carried;
mod exchange;
mod flow;
mod forward;
mod headers;
pub mod limits;
mod lines;
mod repeat;
pub mod rescue;
mod respond;
mod server;
mod session;
mod upgrade;

pub use access::LOGGED;
pub use again::Harmless;
pub use body::{Body, BodyError};
pub use lines::AccessLog;
pub use server::serve;
pub use session::{Serving, Session};
