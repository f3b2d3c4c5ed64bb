//! Where a body ends (RFC 9112 §6.3).

use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    response,
};
use http_body::Body;

use super::Error;

/// How a response's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
    /// It is no body: what follows is another protocol.
    Switched,
}

/// How a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// After so many more bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

impl Framing {
    /// Of a response to a request with this method; `upgrading`: it asked for another protocol. Of several equal
    /// lengths one is left, and none beside chunks.
    ///
    /// # Errors
    /// When it cannot be told for certain where the body ends.
    pub(super) fn of_response(
        method: &Method,
        head: &mut response::Parts,
        upgrading: bool,
    ) -> Result<Self, Error> {
        let (status, headers) = (head.status, &mut head.headers);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return match upgrading {
                true => Ok(Self::Switched),
                false => Err(Error::Malformed("it switches protocols, which no one asked for")),
            };
        }
        if *method == Method::CONNECT && status.is_success() {
            return Ok(Self::Switched);
        }
        let bodiless = *method == Method::HEAD
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || status.is_informational();
        if bodiless {
            return Ok(Self::Empty);
        }
        if headers.contains_key(TRANSFER_ENCODING) {
            if head.version == Version::HTTP_10 {
                return Err(Error::Malformed("HTTP/1.0 with Transfer-Encoding"));
            }
            headers.remove(CONTENT_LENGTH);
            return Ok(match is_chunked(headers) {
                true => Self::Chunked,
                false => Self::UntilClose,
            });
        }
        Ok(match content_length(headers)? {
            Some(0) => Self::Empty,
            Some(length) => Self::Length(length),
            None => Self::UntilClose,
        })
    }
}

impl Outgoing {
    /// As the request's head says; without a word there is no body.
    ///
    /// # Errors
    /// When the head contradicts itself or the body.
    pub(super) fn of_request<B: Body>(request: &mut Request<B>) -> Result<Self, Error> {
        let ended = request.body().is_end_stream();
        if request.headers().contains_key(TRANSFER_ENCODING) {
            if !ended {
                return Ok(Self::Chunked);
            }
            request.headers_mut().remove(TRANSFER_ENCODING);
        }
        match content_length(request.headers_mut())? {
            Some(length) if ended && length > 0 => Err(Error::Length("shorter")),
            length => Ok(Self::Length(length.unwrap_or(0))),
        }
    }

    pub(super) fn is_chunked(self) -> bool {
        self == Self::Chunked
    }
}

/// Whether the connection may be used again after a response with this head.
pub(super) fn keeps_alive(head: &response::Parts) -> bool {
    let says = |option: &str| {
        let values = head.headers.get_all(CONNECTION).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .any(|said| said.trim().eq_ignore_ascii_case(option))
    };
    match head.version {
        Version::HTTP_10 => says("keep-alive") && !says("close"),
        _ => !head.headers.contains_key(CONNECTION) || !says("close"),
    }
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let last = headers.get_all(TRANSFER_ENCODING).iter().next_back();
    let last = last.and_then(|value| value.to_str().ok());
    last.and_then(|text| text.rsplit(',').next())
        .is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"))
}

fn content_length(headers: &mut HeaderMap) -> Result<Option<u64>, Error> {
    let mut found = None;
    let mut several = false;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| INVALID)?;
        for said in text.split(',') {
            let said = said.trim();
            // `parse` would take a sign.
            if said.is_empty() || !said.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(INVALID);
            }
            let length: u64 = said.parse().map_err(|_| INVALID)?;
            if found.is_some_and(|found| found != length) {
                return Err(INVALID);
            }
            several |= found.replace(length).is_some();
        }
    }
    if let Some(length) = found
        && several
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(found)
}

const INVALID: Error = Error::Malformed("invalid Content-Length");

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn framing(
        method: Method,
        status: u16,
        version: Version,
        fields: &[(&'static str, &'static str)],
    ) -> Result<Framing, Error> {
        let mut head = Response::new(()).into_parts().0;
        head.status = StatusCode::from_u16(status).unwrap();
        head.version = version;
        for (name, value) in fields {
            head.headers.append(*name, HeaderValue::from_static(value));
        }
        Framing::of_response(&method, &mut head, false)
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        use Framing::{Chunked, Empty, Length, UntilClose};
        let of = |status, fields: &[_]| framing(Method::GET, status, Version::HTTP_11, fields).unwrap();
        assert_eq!(of(200, &[("content-length", "5")]), Length(5));
        assert_eq!(
            of(200, &[("content-length", "5, 5"), ("content-length", "5")]),
            Length(5)
        );
        assert_eq!(of(200, &[("content-length", "0")]), Empty);
        assert_eq!(of(200, &[("transfer-encoding", "chunked")]), Chunked);
        assert_eq!(
            of(
                200,
                &[("transfer-encoding", "gzip, Chunked"), ("content-length", "5")]
            ),
            Chunked
        );
        assert_eq!(
            of(
                200,
                &[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")]
            ),
            Chunked
        );
        assert_eq!(
            of(
                200,
                &[("transfer-encoding", "chunked, gzip"), ("content-length", "5")]
            ),
            UntilClose
        );
        assert_eq!(of(200, &[]), UntilClose);
        assert_eq!(of(204, &[("content-length", "5")]), Empty);
        assert_eq!(of(304, &[("transfer-encoding", "chunked")]), Empty);
        let head = framing(Method::HEAD, 200, Version::HTTP_11, &[("content-length", "5")]);
        assert_eq!(head.unwrap(), Empty);
        let connect = framing(Method::CONNECT, 200, Version::HTTP_11, &[]);
        assert_eq!(connect.unwrap(), Framing::Switched);
    }

    #[test]
    fn what_may_be_read_two_ways_is_refused() {
        for fields in [
            &[("content-length", "5, 6")][..],
            &[("content-length", "5"), ("content-length", "6")],
            &[("content-length", "+5")],
            &[("content-length", "-1")],
            &[("content-length", "")],
            &[("content-length", "0x5")],
            &[("content-length", "99999999999999999999")],
        ] {
            let found = framing(Method::GET, 200, Version::HTTP_11, fields);
            assert!(matches!(found, Err(Error::Malformed(_))), "{fields:?}: {found:?}");
        }
        let old = framing(
            Method::GET,
            200,
            Version::HTTP_10,
            &[("transfer-encoding", "chunked")],
        );
        assert!(matches!(old, Err(Error::Malformed(_))));
        let switched = framing(Method::GET, 101, Version::HTTP_11, &[]);
        assert!(matches!(switched, Err(Error::Malformed(_))));
    }

    #[test]
    fn the_connection_option_counts_in_every_value() {
        let keeps = |version, values: &[&'static str]| {
            let mut head = Response::new(()).into_parts().0;
            head.version = version;
            for value in values {
                head.headers.append(CONNECTION, HeaderValue::from_static(value));
            }
            keeps_alive(&head)
        };
        assert!(keeps(Version::HTTP_11, &[]));
        assert!(keeps(Version::HTTP_11, &["x-mine"]));
        assert!(!keeps(Version::HTTP_11, &["x-mine", "keep-alive, Close"]));
        assert!(!keeps(Version::HTTP_10, &[]));
        assert!(keeps(Version::HTTP_10, &["Keep-Alive"]));
    }
}
