//! HTTP/2 between two sidecars (RFC 9113), requests and tunnels out and in.
//!
//! What passes is plain HTTP/2; the peer may be anyone who speaks it. But it is made for two proxies with many short
//! messages: whoever sends a message writes its frames himself into the bytes that the connection's one task writes
//! out, many at once, and that task puts what it reads where the readers find it. There is no channel, no queue of
//! frames and no task for each stream at the client; windows are kept, so that a reader who stands still stops only
//! its own stream, and grow where a peer is so far away that they would hold it up.

mod arriving;
mod client;
mod connection;
mod frame;
mod head;
mod hpack;
mod incoming;
mod outgoing;
mod pulse;
mod receive;
mod server;
mod shared;
mod state;
mod stream;
mod tunnel;
mod window;

pub(crate) use client::{Client, Unanswered, connect};
pub use incoming::Incoming;
pub(crate) use server::{serve, serve_tunnels};
pub use tunnel::Tunnel;

use std::{io, sync::Arc};

use h2::Reason;

/// Why a stream, or all of a connection, ended before its time.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(Arc<io::Error>),
    /// The connection ended.
    #[error("the connection ended")]
    Closed,
    /// The peer does not keep to HTTP/2, so that nothing more on the connection can be understood.
    #[error("the peer broke the protocol: {1} ({0})")]
    Protocol(Reason, &'static str),
    /// The same of a header block (RFC 7541).
    #[error("the peer broke the protocol: {0}")]
    Compression(#[from] hpack::Error),
    /// A message is not what a message must be.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    /// The peer ended the stream.
    #[error("the peer reset the stream: {0}")]
    Reset(Reason),
    /// The peer ended the connection.
    #[error("the peer ended the connection: {0}")]
    GoAway(Reason),
    /// It takes no more streams.
    #[error("the connection takes no more requests")]
    Full,
}

impl Error {
    /// What HTTP/2 calls it.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Protocol(reason, _) | Self::Reset(reason) | Self::GoAway(reason) => Some(*reason),
            Self::Compression(_) => Some(Reason::COMPRESSION_ERROR),
            Self::Malformed(_) => Some(Reason::PROTOCOL_ERROR),
            Self::Io(_) | Self::Closed | Self::Full => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// Takes bytes that came from anywhere for those of a client, or of a server: for the fuzzer.
#[doc(hidden)]
pub fn decode(bytes: &[u8], of_client: bool) -> Result<(), Error> {
    match of_client {
        true => connection::swallow::<server::Nothing<false>>(bytes)
            .and(connection::swallow::<server::Nothing<true>>(bytes)),
        false => connection::swallow::<client::Requests>(bytes),
    }
}

#[cfg(test)]
mod tests;
