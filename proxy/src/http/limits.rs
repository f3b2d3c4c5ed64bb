//! What HTTP connections may use.

use std::time::Duration;

/// Largest HTTP/1 request header, in bytes; beyond, the client gets 431. Above Envoy's default of 60 KiB.
pub const HEADER_BYTES: usize = 68 * 1024;
/// Largest HTTP/1 response header, in bytes.
pub const RESPONSE_HEADER_BYTES: usize = 400 * 1024;
/// Largest HTTP/2 header list, in bytes as RFC 9113 §6.5.2 counts them (32 more for each field).
pub const HEADER_LIST_BYTES: u32 = 80 * 1024;
/// The same of a response. An HTTP/1 response's header may be 408 KiB long, and HTTP/2 may carry it.
pub const RESPONSE_HEADER_LIST_BYTES: u32 = 448 * 1024;
/// Most HTTP/1 header fields.
pub const HEADERS: usize = 256;
/// Most bytes that a request's body is read for that no one wants: to close a connection on what it still brings would
/// cost its client the answer.
pub const DISCARDED_BYTES: usize = 256 * 1024;
/// The longest time for the same.
pub const DISCARDING: Duration = Duration::from_secs(1);
/// HTTP/2 flow-control window of a stream.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// HTTP/2 flow-control window of a connection: large beside a stream's, so that a slow one does not stop the rest.
pub const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Most requests at a time on one HTTP/2 connection to an endpoint.
pub const SHARED_STREAMS: u32 = 100;
/// HTTP/2 flow-control window of a connection between sidecars that requests of many clients share: whichever of them
/// stand still, the others go on.
pub const SHARED_WINDOW: u32 = SHARED_STREAMS * STREAM_WINDOW;
/// Requests at a time on one HTTP/2 connection from a client.
pub const CONCURRENT_STREAMS: u32 = 1024;
