//! Heads: that of a request written, that of a response read.

use std::{mem::MaybeUninit, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::CONTENT_LENGTH, response,
};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;
use smallvec::SmallVec;

use super::{Error, framing::Outgoing};
use crate::http::limits;

/// Where a name and its value stand in the bytes of a head.
type Field = (Range<usize>, Range<usize>);

/// Writes a request's head; its version is taken to be HTTP/1.1.
pub(super) fn write<B>(request: &Request<B>, framing: &Outgoing, out: &mut BytesMut) {
    let uri = request.uri();
    out.put_slice(request.method().as_str().as_bytes());
    out.put_u8(b' ');
    if request.method() == Method::CONNECT {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        out.put_slice(authority.as_bytes());
    } else {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        out.put_slice(target.as_bytes());
    }
    out.put_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        // One of both says where the body ends: two would let an endpoint choose.
        if framing.is_chunked() && *name == CONTENT_LENGTH {
            continue;
        }
        write_field(name, value, out);
    }
    out.put_slice(b"\r\n");
}

/// Writes one field.
pub(super) fn write_field(name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
    out.reserve(name.as_str().len() + value.len() + 4);
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

/// Takes a response's head off the bytes read; `None`: it is not complete.
///
/// # Errors
/// When it is not one, or larger than it may be.
pub(super) fn parse(read: &mut BytesMut) -> Result<Option<response::Parts>, Error> {
    let mut headers = [const { MaybeUninit::uninit() }; limits::HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        ParserConfig::default().parse_response_with_uninit_headers(&mut response, read, &mut headers);
    let length = match parsed {
        Ok(Status::Complete(length)) if length <= limits::RESPONSE_HEADER_BYTES => length,
        Ok(Status::Partial) if read.len() < limits::RESPONSE_HEADER_BYTES => return Ok(None),
        Ok(_) => return Err(Error::Malformed("its head is too large")),
        Err(error) => return Err(Error::Malformed(reason(error))),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Error::Malformed("invalid status"))?;
    let version = match response.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let phrase = response
        .reason
        .filter(|phrase| Some(*phrase) != status.canonical_reason());
    let phrase = phrase.and_then(|phrase| ReasonPhrase::try_from(phrase.to_owned()).ok());
    let fields = places(read, response.headers);
    let head = read.split_to(length).freeze();

    let mut parts = Response::new(()).into_parts().0;
    parts.status = status;
    parts.version = version;
    parts.headers = fields_of(&head, &fields)?;
    if let Some(phrase) = phrase {
        parts.extensions = Extensions::new();
        parts.extensions.insert(phrase);
    }
    Ok(Some(parts))
}

/// Takes trailers, up to the empty line that ends them, off the bytes read; `None`: they are not complete.
///
/// # Errors
/// When they are none, or larger than they may be.
pub(super) fn parse_trailers(read: &mut BytesMut) -> Result<Option<HeaderMap>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; limits::HEADERS];
    let (length, fields) = match httparse::parse_headers(read, &mut headers) {
        Ok(Status::Complete((length, headers))) => (length, places(read, headers)),
        Ok(Status::Partial) if read.len() < limits::HEADER_BYTES => return Ok(None),
        Ok(Status::Partial) => return Err(Error::Malformed("its trailers are too large")),
        Err(error) => return Err(Error::Malformed(reason(error))),
    };
    let trailers = read.split_to(length).freeze();
    fields_of(&trailers, &fields).map(Some)
}

fn places(within: &[u8], headers: &[httparse::Header<'_>]) -> SmallVec<[Field; 24]> {
    let base = within.as_ptr().addr();
    let place = |part: &[u8]| {
        let start = part.as_ptr().addr().saturating_sub(base);
        start..start + part.len()
    };
    headers
        .iter()
        .map(|header| (place(header.name.as_bytes()), place(header.value)))
        .collect()
}

/// The fields, which share the bytes of the head.
fn fields_of(head: &Bytes, fields: &[Field]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let name = HeaderName::from_bytes(head.get(name.clone()).unwrap_or_default());
        let name = name.map_err(|_| Error::Malformed("invalid header name"))?;
        // An empty value may stand anywhere.
        let value = match value.is_empty() {
            true => Ok(HeaderValue::from_static("")),
            false => HeaderValue::from_maybe_shared(head.slice(value.clone())),
        };
        let value = value.map_err(|_| Error::Malformed("invalid header value"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "invalid header name",
        httparse::Error::HeaderValue => "invalid header value",
        httparse::Error::NewLine => "invalid line end",
        httparse::Error::Status => "invalid status",
        httparse::Error::Token => "invalid character",
        httparse::Error::TooManyHeaders => "too many headers",
        httparse::Error::Version => "invalid version",
    }
}
