//! HTTP/1.1 messages that ride on HTTP/2 between two sidecars.
//!
//! Under load the requests of many clients share a connection that way, and with it packets and TLS records. The
//! application notices nothing: the message that comes out is the one that would have come over HTTP/1, down to the
//! order of its fields. What HTTP/2 has no place for is in one private field: that a request is HTTP/1.1, and a
//! response's reason phrase if that is not the usual one. Sidecars believe that field from each other only, on
//! connections agreed on for it in the TLS handshake, and let no application speak it.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use hyper::{body::Body as _, ext::ReasonPhrase};

use super::{Body, headers};

/// The private field.
pub(super) const HTTP1: HeaderName = HeaderName::from_static("x-weir-http1");
/// Its value in a request: the minor version.
const ONE: HeaderValue = HeaderValue::from_static("1");
/// What is put into a request that is ready for HTTP/1 when it is carried. [`unload`] takes it out.
pub(crate) static MARK: (HeaderName, HeaderValue) = (HTTP1, ONE);
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");

/// A longer body passes faster on a connection of its own. In bytes.
const LONGEST_BODY: u64 = 64 * 1024;

/// Whether a request that is ready for HTTP/1 can be carried so that nothing of it changes, and is worth it.
pub(super) fn can_carry<B>(request: &Request<B>) -> bool {
    let uri = request.uri();
    let origin = uri.scheme().is_none() && uri.authority().is_none();
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let short = length.is_none_or(|length| {
        let length = length.to_str().ok().and_then(|length| length.parse::<u64>().ok());
        length.is_some_and(|length| length <= LONGEST_BODY)
    });
    let framed_once = length.is_none() || !request.headers().contains_key(TRANSFER_ENCODING);
    request.method() != Method::CONNECT
        && origin
        && target.starts_with('/')
        && short
        && lengths.next().is_none()
        && framed_once
}

/// Makes a carried request the HTTP/1.1 request that it was. One that is not marked, or cannot have been HTTP/1.1,
/// stays what it is.
pub(super) fn unload(request: &mut Request<Body>) {
    if request.headers_mut().remove(HTTP1).is_none() {
        return;
    }
    if request.method() == Method::CONNECT || request.uri().authority().is_some() {
        return;
    }
    *request.version_mut() = Version::HTTP_11;
    if !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(TRANSFER_ENCODING, CHUNKED);
    }
}

/// Puts into the response to a carried request what HTTP/2 has no place for.
pub(super) fn seal(response: &mut Response<Body>) {
    headers::take(response.headers_mut(), &HTTP1);
    let phrase = response.extensions().get::<ReasonPhrase>();
    let phrase = phrase.map(|phrase| HeaderValue::from_bytes(phrase.as_bytes()));
    if let Some(Ok(phrase)) = phrase {
        response.headers_mut().insert(HTTP1, phrase);
    }
}

/// Makes the response to a carried request the one that it was.
pub(crate) fn open(response: &mut Response<Body>) {
    let phrase = headers::take(response.headers_mut(), &HTTP1);
    let phrase = phrase.map(|phrase| ReasonPhrase::try_from(phrase.as_bytes()));
    if let Some(Ok(phrase)) = phrase {
        response.extensions_mut().insert(phrase);
    }
}

/// Removes the field where no sidecar wrote it.
pub(super) fn strip(headers: &mut HeaderMap) {
    headers.remove(HTTP1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, fields: &[(&'static str, &str)]) -> Request<Body> {
        let mut request = Request::new(Body::full("body"));
        *request.uri_mut() = target.parse().unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn what_is_loaded_comes_out_as_it_was() {
        for fields in [
            &[
                ("host", "app"),
                ("x-a", "1"),
                ("x-a", ""),
                ("content-length", "4"),
            ][..],
            &[("host", "app"), ("x-a", "1"), ("transfer-encoding", "chunked")],
            &[
                ("cookie", "a=1"),
                ("host", "app"),
                ("cookie", "b=2"),
                ("transfer-encoding", "chunked"),
            ],
        ] {
            let mut carried = request("/a?b", fields);
            let before: Vec<_> = request("/a?b", fields)
                .headers()
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            carried.headers_mut().remove(TRANSFER_ENCODING);
            carried.headers_mut().append(MARK.0.clone(), MARK.1.clone());
            *carried.version_mut() = Version::HTTP_2;
            unload(&mut carried);
            let after: Vec<_> = carried
                .headers()
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            assert_eq!(after, before);
            assert_eq!(carried.version(), Version::HTTP_11);
        }
    }

    #[test]
    fn a_reason_phrase_is_kept() {
        for phrase in ["Very Busy", "", " ", "caf\u{e9}"] {
            let mut response = Response::new(Body::empty());
            let given = ReasonPhrase::try_from(phrase.as_bytes()).unwrap();
            response.extensions_mut().insert(given.clone());
            seal(&mut response);
            response.extensions_mut().clear();
            open(&mut response);
            assert_eq!(response.extensions().get::<ReasonPhrase>(), Some(&given));
            assert!(response.headers().is_empty());
        }
    }

    #[test]
    fn what_would_change_is_not_carried() {
        assert!(can_carry(&request("/", &[])));
        assert!(can_carry(&request("/", &[("content-length", "65536")])));
        for (target, fields) in [
            ("http://app/", &[][..]),
            ("*", &[]),
            ("/", &[("content-length", "65537")]),
            ("/", &[("content-length", "4"), ("content-length", "4")]),
            ("/", &[("content-length", "4"), ("transfer-encoding", "chunked")]),
            ("/", &[("content-length", "x")]),
        ] {
            assert!(!can_carry(&request(target, fields)), "{target} {fields:?}");
        }
        let mut connect = request("/", &[]);
        *connect.method_mut() = Method::CONNECT;
        assert!(!can_carry(&connect));
    }

    #[test]
    fn what_cannot_have_been_http1_is_not_believed_to_be() {
        let mut request = request("http://app/", &[("x-weir-http1", "1")]);
        *request.version_mut() = Version::HTTP_2;
        unload(&mut request);
        assert_eq!(request.version(), Version::HTTP_2);
        assert!(!request.headers().contains_key(HTTP1));
    }
}
