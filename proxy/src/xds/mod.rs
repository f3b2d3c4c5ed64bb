//! Configuration from the control plane: the aggregated stream, its decoding, and the store that the data
//! path watches.

mod store;

pub use store::{Interest, State, Store, Stored, Watched};
