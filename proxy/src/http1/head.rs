//! Heads, written and read.

use std::{fmt::Write as _, mem::MaybeUninit, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    response,
};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;
use smallvec::SmallVec;

use super::{Error, Fault, framing::Outgoing};
use crate::http::limits;

/// Bytes of the first target that is too long for `http`.
const TOO_LONG: usize = u16::MAX as usize - 1;

/// Where a name and its value stand in the bytes of a head.
type Field = (Range<usize>, Range<usize>);

/// What a response says of what comes after it, beside its own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing: HTTP/1.1 goes on.
    Kept,
    /// That an HTTP/1.0 client may go on.
    KeptOld,
    /// That it ends.
    Ends,
    /// The same, to an HTTP/1.0 client, who takes it for granted.
    EndsOld,
    /// Nothing: what follows is another protocol.
    Switches,
}

/// Writes a request's head; its version is taken to be HTTP/1.1.
pub(super) fn write_request(request: &Request<()>, framing: Outgoing, out: &mut BytesMut) {
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
    let mut length_said = false;
    for (name, value) in request.headers() {
        // Once it is said where the body ends: twice would let an endpoint choose.
        let needless = match framing {
            Outgoing::Chunked => *name == CONTENT_LENGTH,
            _ if *name == CONTENT_LENGTH => std::mem::replace(&mut length_said, true),
            _ => *name == TRANSFER_ENCODING,
        };
        if !needless {
            write_field(name, value, out);
        }
    }
    out.put_slice(b"\r\n");
}

/// Writes a response's head; its own fields say nothing of the connection, unless that switches.
pub(super) fn write_response(head: &response::Parts, framing: Outgoing, after: After, out: &mut BytesMut) {
    let old = matches!(after, After::KeptOld | After::EndsOld);
    out.put_slice(if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.put_slice(head.status.as_str().as_bytes());
    out.put_u8(b' ');
    match head.extensions.get::<ReasonPhrase>() {
        Some(phrase) => out.extend_from_slice(phrase.as_bytes()),
        None => out.put_slice(head.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.put_slice(b"\r\n");
    let mut length_said = false;
    for (name, value) in &head.headers {
        if *name == TRANSFER_ENCODING && after != After::Switches {
            continue;
        }
        length_said |= *name == CONTENT_LENGTH;
        write_field(name, value, out);
    }
    match framing {
        Outgoing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Outgoing::Length(length) if !length_said => {
            // Writing to memory does not fail.
            let _ = write!(out, "content-length: {length}\r\n");
        }
        Outgoing::Length(_) | Outgoing::Nothing | Outgoing::UntilClose => {}
    }
    out.extend_from_slice(match after {
        After::Kept | After::EndsOld | After::Switches => b"\r\n",
        After::KeptOld => b"connection: keep-alive\r\n\r\n",
        After::Ends => b"connection: close\r\n\r\n",
    });
}

/// Writes one field.
pub(super) fn write_field(name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
    out.reserve(name.as_str().len() + value.len() + 4);
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

/// Takes a request's head off the bytes read; `None`: it is not complete. It is boxed, since it is moved often, and has
/// no body yet.
///
/// # Errors
/// When it is not one, or larger than it may be.
pub(super) fn parse_request<B: Default>(read: &mut BytesMut) -> Result<Option<Box<Request<B>>>, Fault> {
    let mut headers = [const { MaybeUninit::uninit() }; limits::HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, read, &mut headers);
    let length = match parsed {
        Ok(Status::Complete(length)) if length <= limits::HEADER_BYTES => length,
        Ok(Status::Partial) if read.len() < limits::HEADER_BYTES => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLarge),
        Err(httparse::Error::Version) => return Err(Fault::Version),
        Err(error) => return Err(Fault::Malformed(reason(error))),
    };
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes());
    let method = method.map_err(|_| Fault::Malformed("invalid method"))?;
    let version = match request.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let target = place(read, request.path.unwrap_or_default().as_bytes());
    let fields = places(read, request.headers);
    let head = read.split_to(length).freeze();

    let mut request = Box::new(Request::new(B::default()));
    *request.method_mut() = method;
    *request.version_mut() = version;
    *request.uri_mut() =
        Uri::from_maybe_shared(head.slice(target.clone())).map_err(|_| match target.len() {
            0..TOO_LONG => Fault::Malformed("invalid target"),
            _ => Fault::TargetTooLong,
        })?;
    *request.headers_mut() = fields_of(&head, &fields).map_err(Fault::Malformed)?;
    Ok(Some(request))
}

/// Takes a response's head off the bytes read; `None`: it is not complete.
///
/// # Errors
/// When it is not one, or larger than it may be.
pub(super) fn parse_response(read: &mut BytesMut) -> Result<Option<response::Parts>, Error> {
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
    parts.headers = fields_of(&head, &fields).map_err(Error::Malformed)?;
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
    fields_of(&trailers, &fields).map(Some).map_err(Error::Malformed)
}

/// Where a part of these bytes stands in them.
fn place(within: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(within.as_ptr().addr());
    start..start + part.len()
}

fn places(within: &[u8], headers: &[httparse::Header<'_>]) -> SmallVec<[Field; 24]> {
    headers
        .iter()
        .map(|header| (place(within, header.name.as_bytes()), place(within, header.value)))
        .collect()
}

/// The fields, which share the bytes of the head.
fn fields_of(head: &Bytes, fields: &[Field]) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let name = HeaderName::from_bytes(head.get(name.clone()).unwrap_or_default());
        let name = name.map_err(|_| "invalid header name")?;
        // An empty value may stand anywhere.
        let value = match value.is_empty() {
            true => Ok(HeaderValue::from_static("")),
            false => HeaderValue::from_maybe_shared(head.slice(value.clone())),
        };
        let value = value.map_err(|_| "invalid header value")?;
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
