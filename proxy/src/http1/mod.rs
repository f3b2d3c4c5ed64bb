//! HTTP/1.1 towards an endpoint (RFC 9112): requests out, responses in.
//!
//! A request and its response are driven by the task that asks: there is no task and no channel for each
//! connection, and an idle connection holds no buffer. A connection is used again only when both messages were
//! complete and nothing more had come, so that no response can be taken for another request's.

mod chunks;
mod connection;
mod framing;
mod head;
mod incoming;
mod upload;

pub use connection::Connection;
pub use incoming::{Incoming, Switched};

use std::io;

use crate::http::BodyError;

/// Why a request has no response, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The endpoint closed it too early.
    #[error("the endpoint closed the connection before its response was complete")]
    Closed,
    /// What the endpoint sent is not HTTP/1.1.
    #[error("the response is not HTTP/1.1: {0}")]
    Malformed(&'static str),
    /// The request's own body broke off.
    #[error("the request broke off: {0}")]
    Body(#[source] BodyError),
    /// The request's body is not as long as its head says.
    #[error("the request's body is {0} than its Content-Length")]
    Length(&'static str),
}

/// Takes a response's head and body from bytes that came from anywhere: for the fuzzer.
#[doc(hidden)]
pub fn decode(bytes: &[u8]) -> Result<usize, Error> {
    let mut read = bytes::BytesMut::from(bytes);
    let Some(mut head) = head::parse(&mut read)? else {
        return Ok(0);
    };
    let framing = framing::Framing::of_response(&http::Method::GET, &mut head, true)?;
    let mut decoder = chunks::Decoder::default();
    let mut taken = 0;
    if matches!(framing, framing::Framing::Chunked) {
        while let Some(part) = decoder.decode(&mut read)? {
            match part {
                chunks::Part::Data(data) => taken += data.len(),
                chunks::Part::End(_) => break,
            }
        }
    }
    Ok(taken)
}
