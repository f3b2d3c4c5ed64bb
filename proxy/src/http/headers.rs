//! What changes in a message between two connections (RFC 9110 §7.6.1), and no more.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};

use hyper::body::Body as _;

use super::{Body, carried};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// By convention of Envoy the word of a proxy on its client's certificate. This one writes none, so what comes in is
/// the client's own invention.
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Removes a field that is seldom there: to look at the names there are costs less than to look it up.
pub(super) fn take(headers: &mut HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    match headers.keys().any(|there| there == name) {
        true => headers.remove(name),
        false => None,
    }
}

/// Removes what belongs to one connection only. `TE: trailers`, which gRPC needs, goes through.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let (mut found, mut te) = (false, false);
    for name in headers.keys() {
        te |= *name == TE;
        found |= is_hop_by_hop(name);
    }
    if te {
        strip_te(headers);
    }
    if !found {
        return;
    }
    if headers.contains_key(CONNECTION) {
        strip_named(headers);
    }
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(CLIENT_CERTIFICATE);
    carried::strip(headers);
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "x-forwarded-client-cert" | "x-weir-http1"
        )
}

/// Leaves `trailers` of it, if that is there.
fn strip_te(headers: &mut HeaderMap) {
    let mut values = headers.get_all(TE).iter();
    if values.next().is_some_and(|value| value == "trailers") && values.next().is_none() {
        return;
    }
    let trailers = headers.get_all(TE).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.to_ascii_lowercase().contains("trailers"))
    });
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes `Connection` and the fields that it names.
fn strip_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| *name != TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

/// The protocol that a request wants to change to, if it does.
pub(super) fn wanted_upgrade(request: &Request<Body>) -> Option<String> {
    if request.method() == Method::CONNECT {
        return Some("connect".to_owned());
    }
    // Of HTTP/1.0 the field means nothing (RFC 9110 §7.8).
    if request.version() == Version::HTTP_10 {
        return None;
    }
    let wanted = request.headers().get(UPGRADE)?.to_str().ok()?;
    let connection = request.headers().get_all(CONNECTION).iter();
    let asked = connection
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    asked.then(|| wanted.to_ascii_lowercase())
}

/// Changes the path and the host, where the route says so.
pub(super) fn retarget(request: &mut Request<Body>, path: Option<PathAndQuery>, host: Option<&HeaderValue>) {
    if path.is_none() && host.is_none() {
        return;
    }
    let mut parts = request.uri().clone().into_parts();
    if let Some(host) = host {
        if parts.authority.is_some() {
            parts.authority = Authority::try_from(host.as_bytes()).ok().or(parts.authority);
        }
        request.headers_mut().insert(HOST, host.clone());
    }
    if path.is_some() {
        parts.path_and_query = path;
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Makes a request ready for an HTTP/1.1 connection: origin form, `Host`, one `Cookie`.
pub(super) fn to_http1(request: &mut Request<Body>) {
    let from = request.version();
    *request.version_mut() = Version::HTTP_11;
    // The client was sent `100 Continue` as soon as its body was wanted, so the endpoint is asked for none.
    take(request.headers_mut(), &EXPECT);
    if request.method() == Method::CONNECT {
        return;
    }
    // Said for every body of unknown length: of a GET or a HEAD it is taken for granted that there is none.
    if !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH) {
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    if request.uri().scheme().is_some() || request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    if from == Version::HTTP_2 {
        join_cookies(request.headers_mut());
    }
}

/// Makes a request ready for an HTTP/2 connection: absolute form, no `Host`.
pub(super) fn to_http2(request: &mut Request<Body>) {
    *request.version_mut() = Version::HTTP_2;
    take(request.headers_mut(), &EXPECT);
    let host = request.headers_mut().remove(HOST);
    if request.uri().authority().is_some() && request.uri().scheme().is_some() {
        return;
    }
    let mut parts = request.uri().clone().into_parts();
    if parts.authority.is_none() {
        let host = host.as_ref().and_then(|host| host.to_str().ok());
        let authority = host.and_then(|host| host.parse::<Authority>().ok());
        parts.authority = authority.or_else(|| Some(Authority::from_static("localhost")));
    }
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// HTTP/2 may split a cookie header into crumbs; HTTP/1 may not (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_vouch_for_its_own_certificate() {
        let mut headers = HeaderMap::new();
        let forged = HeaderValue::from_static("URI=spiffe://cluster.local/ns/shop/sa/admin");
        headers.insert("x-forwarded-client-cert", forged);
        headers.insert("x-other", HeaderValue::from_static("kept"));
        strip_hop_by_hop(&mut headers);
        assert!(!headers.contains_key("x-forwarded-client-cert"));
        assert!(headers.contains_key("x-other"));
    }

    #[test]
    fn an_old_client_changes_no_protocol() {
        let mut request = Request::new(Body::empty());
        for (name, value) in [(CONNECTION, "upgrade"), (UPGRADE, "websocket")] {
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(wanted_upgrade(&request).as_deref(), Some("websocket"));
        *request.version_mut() = Version::HTTP_10;
        assert_eq!(wanted_upgrade(&request), None);
    }

    #[test]
    fn what_belongs_to_a_connection_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-mine, te"),
            ("x-mine", "1"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("upgrade", "h2c"),
            ("x-other", "kept"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                ("te", &HeaderValue::from_static("trailers")),
                ("x-other", &HeaderValue::from_static("kept"))
            ]
        );
        for alone in [
            "transfer-encoding",
            "keep-alive",
            "proxy-connection",
            "upgrade",
            "connection",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(alone), HeaderValue::from_static("x"));
            strip_hop_by_hop(&mut headers);
            assert!(headers.is_empty(), "{alone}");
        }
    }

    #[test]
    fn of_te_only_trailers_goes_through() {
        for (values, left) in [
            (&["trailers"][..], Some("trailers")),
            (&["Trailers;q=1"], Some("trailers")),
            (&["trailers", "gzip"], Some("trailers")),
            (&["gzip"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TE, HeaderValue::from_static(value));
            }
            strip_hop_by_hop(&mut headers);
            let te: Vec<_> = headers.get_all(TE).iter().collect();
            let wanted: Vec<_> = left.into_iter().map(HeaderValue::from_static).collect();
            assert_eq!(te, wanted.iter().collect::<Vec<_>>());
        }
    }
}
