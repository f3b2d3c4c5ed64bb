//! Sockets: listening, original destinations, options, replayed bytes and copying.

mod copy;
mod dial;
mod gather;
mod io;
mod listen;
mod replay;

pub use copy::{Copied, copy};
pub use dial::{DialError, Dialer};
pub use gather::{Driven, Gathered, Outlet, Patience, gather};
pub use io::Io;
pub use listen::{bind, configure, original_destination, reset};
pub use replay::Replay;
