//! Configuration from the control plane: the aggregated stream, its decoding, and the store that the data
//! path watches.

mod apply;
mod connect;
pub mod decode;
mod delta;
mod dump;
mod lapse;
mod refusals;
#[cfg(any(test, fuzzing))]
pub mod rehearsal;
mod sotw;
mod status;
mod store;
mod stream;
mod subscriptions;
#[cfg(test)]
mod tests;

pub(crate) use dump::{descriptors, message_to_json};

pub use connect::{Connect, Io, Keepalive, channel};
pub use dump::{Dumped, Owner, Summary};
pub use status::{Status, TypeStatus};
pub use store::{Interest, Source, State, Store, Stored, Watched};
pub use stream::{IDLE_GRACE, Stream};
