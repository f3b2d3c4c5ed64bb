//! Compressed heads (RFC 7541).
//!
//! A connection between two sidecars carries the requests of many clients: what they share becomes an index of one
//! octet, and what never comes again leaves the table alone. Huffman codes are read and never written, since both
//! ends sit in one cluster, where octets are cheaper than the work to save them.

mod decoder;
mod encoder;
mod huffman;
mod index;
mod table;
#[cfg(test)]
mod tests;

use http::{HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};

pub(crate) use decoder::Decoder;
pub(crate) use encoder::Encoder;

/// Most octets of a dynamic table, as RFC 7541 §4.1 counts them: HTTP/2's default, which we announce.
const LIMIT: usize = 4096;
/// What an entry of a dynamic table counts beside its name and value, in octets (RFC 7541 §4.1).
const OVERHEAD: usize = 32;

/// A field of a head, or one of the pseudo fields that stand before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Method(Method),
    Scheme(HeaderValue),
    Authority(HeaderValue),
    Path(PathAndQuery),
    /// What an extended CONNECT asks for (RFC 8441).
    Protocol(HeaderValue),
    Status(StatusCode),
    Field(HeaderName, HeaderValue),
}

/// What became of a block that left the table right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Outcome {
    Good,
    /// It has fields that HTTP does not know, and why the first is none: an error of the stream alone.
    Malformed(&'static str),
}

/// Why a block cannot be decoded. The table is no longer the peer's, so it ends the connection
/// (`COMPRESSION_ERROR`, RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It ends within a field.
    #[error("a header block ends within a field")]
    Short,
    /// A number has more than 32 bits or too many octets.
    #[error("a number in a header block is too large")]
    Number,
    /// Neither table has an entry there.
    #[error("a header block refers to an entry that there is not")]
    Index,
    /// The coded text has the end mark in it, or is not filled up with the start of it.
    #[error("a text in a header block is no Huffman code")]
    Huffman,
    /// A size of the table that we did not allow, or after a field.
    #[error("a header block resizes the table where or as it may not")]
    Resize,
}

impl Header {
    /// Octets that it counts in a table and in `SETTINGS_MAX_HEADER_LIST_SIZE` (RFC 9113 §6.5.2).
    pub(crate) fn size(&self) -> usize {
        let octets = match self {
            Self::Method(method) => ":method".len() + method.as_str().len(),
            Self::Scheme(value) => ":scheme".len() + value.len(),
            Self::Authority(value) => ":authority".len() + value.len(),
            Self::Path(path) => ":path".len() + path.as_str().len(),
            Self::Protocol(value) => ":protocol".len() + value.len(),
            Self::Status(_) => ":status".len() + 3,
            Self::Field(name, value) => name.as_str().len() + value.len(),
        };
        octets + OVERHEAD
    }
}
