//! Configuration from the control plane: the aggregated stream, its decoding, and the store that the data
//! path watches.

mod connect;
pub mod decode;
mod dump;
mod status;
mod store;

pub(crate) use dump::descriptors;

pub use connect::{Connect, Io, Keepalive, channel};
pub use dump::{Dumped, Owner, Summary};
pub use status::{Status, TypeStatus};
pub use store::{Interest, Source, State, Store, Stored, Watched};
