//! HTTP/1.1 (RFC 9112): requests out to an endpoint, and requests in from a client.
//!
//! A request and its response are driven by the task that asks or answers: there is no task and no channel beside it,
//! and an idle connection holds no buffer. A connection is used again only when both messages were complete, so that
//! nothing can be taken for a part of another message.

mod chunks;
mod connection;
mod fault;
mod framing;
mod head;
mod incoming;
mod queue;
mod receiving;
mod sending;
mod server;
mod upload;
mod wire;

pub use connection::Connection;
pub use fault::Fault;
pub use incoming::{Incoming, Switched};
pub use server::Serving;
pub use upload::{OnUpgrade, Upload};

use std::io;

use crate::http::BodyError;

/// Why a message is not complete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The peer closed it too early.
    #[error("the connection was closed before the message was complete")]
    Closed,
    /// What the peer sent is not HTTP/1.1.
    #[error("the message is not HTTP/1.1: {0}")]
    Malformed(&'static str),
    /// The body of the message that is sent broke off.
    #[error("what is sent broke off: {0}")]
    Body(#[source] BodyError),
    /// The body of the message that is sent is not as long as its head says.
    #[error("the body is {0} than its Content-Length")]
    Length(&'static str),
}

/// Takes a response's head and body from bytes that came from anywhere: for the fuzzer.
#[doc(hidden)]
pub fn decode(bytes: &[u8]) -> Result<usize, Error> {
    let mut read = bytes::BytesMut::from(bytes);
    let Some(mut head) = head::parse_response(&mut read)? else {
        return Ok(0);
    };
    let marks = framing::Marks::of(&head.headers);
    let framing = framing::Framing::of_response(&http::Method::GET, &mut head, marks, true)?;
    take(framing, &mut read)
}

/// The same of a request.
#[doc(hidden)]
pub fn decode_request(bytes: &[u8]) -> Result<usize, Fault> {
    let mut read = bytes::BytesMut::from(bytes);
    let Some(mut request) = head::parse_request::<()>(&mut read)? else {
        return Ok(0);
    };
    let marks = framing::Marks::of(request.headers());
    let framing = framing::Framing::of_request(&mut request, marks)?;
    take(framing, &mut read).map_err(|_| Fault::Malformed("its body"))
}

fn take(framing: framing::Framing, read: &mut bytes::BytesMut) -> Result<usize, Error> {
    let mut decoder = chunks::Decoder::default();
    let mut taken = 0;
    if framing == framing::Framing::Chunked {
        while let Some(part) = decoder.decode(read)? {
            match part {
                chunks::Part::Data(data) => taken += data.len(),
                chunks::Part::End(_) => break,
            }
        }
    }
    Ok(taken)
}
