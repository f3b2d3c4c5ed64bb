//! The heads of messages (RFC 9113 §8): written as header blocks, and put together from the fields of one.

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    request, response,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::hpack::{Encoder, Header};

/// What stands before a message's body, or behind it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Head<'a> {
    /// With one field more perhaps.
    Request(&'a Request<()>, Option<&'a (HeaderName, HeaderValue)>),
    /// A request for a tunnel to this authority.
    Connect(&'a str),
    Response(StatusCode, &'a HeaderMap),
    Trailers(&'a HeaderMap),
}

impl Head<'_> {
    pub(super) fn encode(&self, encoder: &mut Encoder, out: &mut BytesMut) {
        encoder.begin(out);
        let headers = match *self {
            Self::Request(request, more) => {
                encoder.method(request.method(), out);
                encode_target(request.uri(), encoder, out);
                let fields = request.headers().iter();
                // Where the body ends HTTP/2 says itself.
                for (name, value) in fields.filter(|(name, _)| **name != TRANSFER_ENCODING) {
                    encoder.field(name, value, out);
                }
                if let Some((name, value)) = more {
                    encoder.field(name, value, out);
                }
                return;
            }
            Self::Connect(authority) => {
                encoder.method(&Method::CONNECT, out);
                encoder.authority(authority, out);
                return;
            }
            Self::Response(status, headers) => {
                encoder.status(status, out);
                headers
            }
            Self::Trailers(headers) => headers,
        };
        for (name, value) in headers {
            encoder.field(name, value, out);
        }
    }
}

fn encode_target(uri: &Uri, encoder: &mut Encoder, out: &mut BytesMut) {
    encoder.scheme(uri.scheme_str().unwrap_or("http"), out);
    if let Some(authority) = uri.authority() {
        encoder.authority(authority.as_str(), out);
    }
    encoder.path(uri.path_and_query().map_or("/", PathAndQuery::as_str), out);
}

/// The fields of a header block, as they come.
#[derive(Debug, Default)]
pub(super) struct Fields {
    method: Option<Method>,
    scheme: Option<HeaderValue>,
    authority: Option<HeaderValue>,
    path: Option<PathAndQuery>,
    status: Option<StatusCode>,
    protocol: bool,
    pseudo: bool,
    headers: HeaderMap,
    octets: usize,
    fault: Option<&'static str>,
}

impl Fields {
    /// Takes the next one in. Of a list of more octets than `limit` the rest is passed over.
    pub(super) fn add(&mut self, header: Header, limit: usize) {
        self.octets = self.octets.saturating_add(header.size());
        let once = |was: bool| was.then_some("a pseudo-header field comes twice");
        let fault = match header {
            Header::Field(name, value) => {
                let fault = is_connection_specific(&name)
                    .then_some("it has a field that belongs to an HTTP/1 connection");
                self.fault = self.fault.or(fault);
                if !self.is_longer(limit) && self.headers.try_append(name, value).is_err() {
                    self.spoil("it has too many fields");
                }
                return;
            }
            Header::Method(method) => once(self.method.replace(method).is_some()),
            Header::Scheme(scheme) => once(self.scheme.replace(scheme).is_some()),
            Header::Authority(authority) => once(self.authority.replace(authority).is_some()),
            Header::Path(path) => once(self.path.replace(path).is_some()),
            Header::Status(status) => once(self.status.replace(status).is_some()),
            Header::Protocol(_) => once(std::mem::replace(&mut self.protocol, true)),
        };
        let late = (!self.headers.is_empty()).then_some("a pseudo-header field comes after others");
        self.pseudo = true;
        self.fault = self.fault.or(fault).or(late);
    }

    /// Says why the message is malformed.
    pub(super) fn spoil(&mut self, fault: &'static str) {
        self.fault = self.fault.or(Some(fault));
    }

    pub(super) fn is_longer(&self, limit: usize) -> bool {
        self.octets > limit
    }

    /// # Errors
    /// When they are no request.
    pub(super) fn into_request(self) -> Result<request::Parts, &'static str> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.status.is_some() || self.protocol {
            return Err("it has a pseudo-header field that is not a request's");
        }
        let authority = self
            .authority
            .map(|authority| Authority::try_from(authority.as_bytes()))
            .transpose()
            .map_err(|_| "its authority is none")?;
        let mut parts = Request::new(()).into_parts().0;
        (parts.method, parts.uri) = match (self.method, self.path, self.scheme, authority) {
            (Some(Method::CONNECT), None, None, Some(authority)) => (Method::CONNECT, authority.into()),
            (Some(Method::CONNECT), ..) => return Err("a CONNECT names an authority and nothing else"),
            (Some(method), Some(path), Some(_), None) => (method, path.into()),
            (Some(method), Some(path), Some(scheme), Some(authority)) => {
                let mut of = http::uri::Parts::default();
                of.scheme = Some(Scheme::try_from(scheme.as_bytes()).map_err(|_| "its scheme is none")?);
                of.authority = Some(authority);
                of.path_and_query = Some(path);
                (method, Uri::from_parts(of).map_err(|_| "its target is none")?)
            }
            _ => return Err("it lacks a pseudo-header field"),
        };
        parts.version = Version::HTTP_2;
        parts.headers = self.headers;
        Ok(parts)
    }

    /// # Errors
    /// When they are no response.
    pub(super) fn into_response(self) -> Result<response::Parts, &'static str> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let foreign = self.method.is_some() || self.path.is_some() || self.authority.is_some();
        if foreign || self.scheme.is_some() || self.protocol {
            return Err("it has a pseudo-header field that is not a response's");
        }
        let mut parts = Response::new(()).into_parts().0;
        parts.status = self.status.ok_or("it lacks its status")?;
        parts.version = Version::HTTP_2;
        parts.headers = self.headers;
        Ok(parts)
    }

    /// # Errors
    /// When they are no trailers.
    pub(super) fn into_trailers(self) -> Result<HeaderMap, &'static str> {
        match self.fault {
            Some(fault) => Err(fault),
            None if self.pseudo => Err("its trailers have a pseudo-header field"),
            None => Ok(self.headers),
        }
    }
}

/// How long the body is, by the message's head; `None`: it does not say.
///
/// # Errors
/// When it says so badly.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    let text = length.to_str().unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let length = text.parse().ok().filter(|_| digits && lengths.next().is_none());
    length.map(Some).ok_or("its Content-Length is none")
}

fn is_connection_specific(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::http2::hpack::{Decoder, Outcome};

    const LIMIT: usize = 1024;

    fn field(name: &'static str, value: &'static str) -> Header {
        Header::Field(HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    fn path(path: &'static str) -> Header {
        Header::Path(PathAndQuery::from_static(path))
    }

    fn fields(of: Vec<Header>) -> Fields {
        let mut fields = Fields::default();
        for header in of {
            fields.add(header, LIMIT);
        }
        fields
    }

    fn http() -> Header {
        Header::Scheme(HeaderValue::from_static("http"))
    }

    #[test]
    fn a_request_comes_as_it_was_sent() {
        for target in ["/a?b=c", "http://app:80/a", "/"] {
            let sent = Request::put(target)
                .header("x-a", "1")
                .header("cookie", "a")
                .header("x-a", "2")
                .body(())
                .unwrap();
            let mut out = BytesMut::new();
            let more = (HeaderName::from_static("x-b"), HeaderValue::from_static("3"));
            let mut chunked = sent.clone();
            let coding = HeaderValue::from_static("chunked");
            chunked.headers_mut().insert(TRANSFER_ENCODING, coding);
            let head = Head::Request(&chunked, Some(&more));
            head.encode(&mut Encoder::new(), &mut out);
            let mut fields = Fields::default();
            let mut add = |header| fields.add(header, LIMIT);
            let outcome = Decoder::new().decode(Bytes::from(out), &mut add).unwrap();
            assert_eq!(outcome, Outcome::Good);
            let came = fields.into_request().unwrap();
            assert_eq!((&came.method, &came.uri), (sent.method(), sent.uri()));
            let with_more = sent.headers().iter().chain([(&more.0, &more.1)]);
            assert!(came.headers.iter().eq(with_more));
        }
    }

    fn authority() -> Header {
        Header::Authority(HeaderValue::from_static("10.0.0.1:80"))
    }

    #[test]
    fn a_connect_names_an_authority() {
        let came = fields(vec![Header::Method(Method::CONNECT), authority()]).into_request();
        let came = came.unwrap();
        assert_eq!(
            (came.method, came.uri.to_string()),
            (Method::CONNECT, "10.0.0.1:80".into())
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let get = || Header::Method(Method::GET);
        assert!(fields(vec![get(), http(), path("/")]).into_request().is_ok());
        for wrong in [
            vec![get(), http()],
            vec![get(), path("/")],
            vec![http(), path("/")],
            vec![get(), get(), http(), path("/")],
            vec![get(), http(), path("/"), path("/")],
            vec![get(), http(), path("/"), Header::Status(StatusCode::OK)],
            vec![get(), http(), field("a", "b"), path("/")],
            vec![get(), http(), path("/"), field("connection", "a")],
            vec![get(), http(), path("/"), field("transfer-encoding", "chunked")],
            vec![get(), http(), path("/"), field("keep-alive", "1")],
            vec![Header::Method(Method::CONNECT), http(), path("/")],
            vec![Header::Method(Method::CONNECT)],
            vec![Header::Method(Method::CONNECT), path("/"), authority()],
            vec![
                get(),
                http(),
                path("/"),
                Header::Protocol(HeaderValue::from_static("websocket")),
            ],
        ] {
            let shown = format!("{wrong:?}");
            assert!(fields(wrong).into_request().is_err(), "{shown}");
        }
    }

    #[test]
    fn what_is_no_response_is_refused() {
        let ok = || Header::Status(StatusCode::OK);
        assert!(fields(vec![ok(), field("a", "b")]).into_response().is_ok());
        for wrong in [
            vec![field("a", "b")],
            vec![ok(), ok()],
            vec![ok(), path("/")],
            vec![ok(), Header::Method(Method::GET)],
            vec![field("a", "b"), ok()],
        ] {
            let shown = format!("{wrong:?}");
            assert!(fields(wrong).into_response().is_err(), "{shown}");
        }
        assert!(fields(vec![ok()]).into_trailers().is_err());
        assert!(fields(vec![field("a", "b")]).into_trailers().is_ok());
    }

    #[test]
    fn a_long_list_is_noticed_and_not_kept() {
        let long = "x".repeat(LIMIT / 2 - 33);
        let value = HeaderValue::from_str(&long).unwrap();
        let mut fields = Fields::default();
        for _ in 0..2 {
            fields.add(Header::Field(HeaderName::from_static("a"), value.clone()), LIMIT);
        }
        assert!(!fields.is_longer(LIMIT));
        fields.add(Header::Field(HeaderName::from_static("b"), value), LIMIT);
        assert!(fields.is_longer(LIMIT));
        assert_eq!(fields.headers.len(), 2);
    }

    #[test]
    fn a_length_is_digits_once() {
        let length = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            content_length(&headers)
        };
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&["10"]), Ok(Some(10)));
        for wrong in [&["+1"][..], &[""], &["1", "1"], &["a"], &["99999999999999999999"]] {
            assert!(length(wrong).is_err(), "{wrong:?}");
        }
    }
}
