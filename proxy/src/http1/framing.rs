//! Where a body ends (RFC 9112 §6.3).

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING, UPGRADE},
    response,
};
use http_body::Body;

use super::{Error, Fault};

/// How a body that is read ends.
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

/// How a body that is written ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// There is none, and a length would be that of another message.
    Nothing,
    /// After so many more bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Which of the fields there are that say where a message ends, and what may follow it. To look at all names once costs
/// less than to look up each of these.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    pub(super) connection: bool,
    pub(super) content_length: bool,
    pub(super) expect: bool,
    pub(super) te: bool,
    pub(super) transfer_encoding: bool,
    pub(super) upgrade: bool,
}

impl Marks {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut marks = Self::default();
        for name in headers.keys() {
            marks.connection |= *name == CONNECTION;
            marks.content_length |= *name == CONTENT_LENGTH;
            marks.expect |= *name == EXPECT;
            marks.te |= *name == TE;
            marks.transfer_encoding |= *name == TRANSFER_ENCODING;
            marks.upgrade |= *name == UPGRADE;
        }
        marks
    }

    /// Whether the connection may be used again after a message of this version with these fields.
    pub(super) fn keep_alive(self, version: Version, headers: &HeaderMap) -> bool {
        match version {
            Version::HTTP_10 => says(headers, "keep-alive") && !says(headers, "close"),
            _ => !self.connection || !says(headers, "close"),
        }
    }

    fn content_length(self, headers: &HeaderMap) -> Result<Option<u64>, Error> {
        Ok(match self.content_length {
            true => content_length(headers)?.map(|(length, _)| length),
            false => None,
        })
    }

    /// The same, after which it is said once only.
    fn settle(self, headers: &mut HeaderMap) -> Result<Option<u64>, Error> {
        if !self.content_length {
            return Ok(None);
        }
        let said = content_length(headers)?;
        if let Some((length, true)) = said {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(said.map(|(length, _)| length))
    }
}

impl Framing {
    /// Of a request. Of several equal lengths one is left.
    ///
    /// # Errors
    /// When it cannot be told for certain where the body ends: another server might find it elsewhere.
    pub(super) fn of_request<B>(request: &mut Request<B>, marks: Marks) -> Result<Self, Fault> {
        if marks.transfer_encoding {
            if request.version() == Version::HTTP_10 {
                return Err(Fault::Malformed("HTTP/1.0 with Transfer-Encoding"));
            }
            let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
            let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
            if !codings.next().is_some_and(chunked) || codings.next().is_some() {
                return Err(Fault::Coding);
            }
            return match marks.content_length {
                true => Err(Fault::Malformed("Content-Length beside Transfer-Encoding")),
                false => Ok(Self::Chunked),
            };
        }
        match marks.settle(request.headers_mut()) {
            Ok(Some(0) | None) => Ok(Self::Empty),
            Ok(Some(length)) => Ok(Self::Length(length)),
            Err(_) => Err(Fault::Malformed("invalid Content-Length")),
        }
    }

    /// Of a response to a request with this method; `upgrading`: it asked for another protocol. Of several equal
    /// lengths one is left, and none beside chunks.
    ///
    /// # Errors
    /// When it cannot be told for certain where the body ends.
    pub(super) fn of_response(
        method: &Method,
        head: &mut response::Parts,
        marks: Marks,
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
        if marks.transfer_encoding {
            if head.version == Version::HTTP_10 {
                return Err(Error::Malformed("HTTP/1.0 with Transfer-Encoding"));
            }
            headers.remove(CONTENT_LENGTH);
            return Ok(match is_chunked(headers) {
                true => Self::Chunked,
                false => Self::UntilClose,
            });
        }
        Ok(match marks.settle(headers)? {
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
    pub(super) fn of_request<B: Body>(head: &Request<()>, body: &B) -> Result<Self, Error> {
        let marks = Marks::of(head.headers());
        let ended = body.is_end_stream();
        if marks.transfer_encoding && !ended {
            return Ok(Self::Chunked);
        }
        match marks.content_length(head.headers())? {
            Some(length) if ended && length > 0 => Err(Error::Length("shorter")),
            length => Ok(Self::Length(length.unwrap_or(0))),
        }
    }

    /// Of a response to a client of this version; `bodiless`: to its method there is no body.
    ///
    /// # Errors
    /// When the head contradicts itself.
    pub(super) fn of_response<B: Body>(
        response: &mut Response<B>,
        marks: Marks,
        version: Version,
        bodiless: bool,
    ) -> Result<Self, Error> {
        let status = response.status();
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            response.headers_mut().remove(CONTENT_LENGTH);
            return Ok(Self::Nothing);
        }
        if bodiless || status == StatusCode::NOT_MODIFIED {
            return Ok(Self::Nothing);
        }
        let length = marks.settle(response.headers_mut())?;
        Ok(match length.or_else(|| response.body().size_hint().exact()) {
            Some(length) => Self::Length(length),
            None if version == Version::HTTP_10 => Self::UntilClose,
            None => Self::Chunked,
        })
    }
}

/// Whether the `Connection` field has this option.
fn says(headers: &HeaderMap, option: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|said| said.trim().eq_ignore_ascii_case(option))
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let last = headers.get_all(TRANSFER_ENCODING).iter().next_back();
    let last = last.and_then(|value| value.to_str().ok());
    last.and_then(|text| text.rsplit(',').next())
        .is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"))
}

/// The length, and whether it is said several times.
fn content_length(headers: &HeaderMap) -> Result<Option<(u64, bool)>, Error> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let (mut found, mut several) = (None, false);
    for value in std::iter::once(first).chain(values) {
        for said in value.as_bytes().split(|byte| *byte == b',') {
            let length = number(said.trim_ascii()).ok_or(INVALID)?;
            if found.is_some_and(|found| found != length) {
                return Err(INVALID);
            }
            several |= found.replace(length).is_some();
        }
    }
    Ok(found.map(|length| (length, several)))
}

/// The number that these digits are, of which there is at least one.
fn number(digits: &[u8]) -> Option<u64> {
    let value = digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    });
    value.filter(|_| !digits.is_empty())
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
        let marks = Marks::of(&head.headers);
        Framing::of_response(&method, &mut head, marks, false)
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
            Marks::of(&head.headers).keep_alive(head.version, &head.headers)
        };
        assert!(keeps(Version::HTTP_11, &[]));
        assert!(keeps(Version::HTTP_11, &["x-mine"]));
        assert!(!keeps(Version::HTTP_11, &["x-mine", "keep-alive, Close"]));
        assert!(!keeps(Version::HTTP_10, &[]));
        assert!(keeps(Version::HTTP_10, &["Keep-Alive"]));
    }
}
