//! Requests that an application may read as others than the rules did. Where rules are in force they are denied: a
//! rule for `/public/.*` must not let `/public/../admin` through to an application that resolves it.

use http::{
    HeaderName,
    header::{CONNECTION, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use super::Request;

/// What a `Connection` header may name. Any other field that it names is removed before the application sees the
/// request, after the rules saw it.
const CONNECTION_OPTIONS: [HeaderName; 4] = [TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Why the request has more than one reading; `None`: it has one.
pub fn ambiguity(request: &Request<'_>) -> Option<&'static str> {
    if climbs(request.path()) {
        return Some("its path has a \"..\" segment");
    }
    let repeats = request.headers.len() > request.headers.keys_len();
    if repeats && request.headers.get_all(HOST).iter().nth(1).is_some() {
        return Some("it has more than one Host header");
    }
    names_fields(request).then_some("its Connection header names a field that is not about the connection")
}

/// Whether a segment is `..`, as the strictest and the laxest of servers read it: percent-encoded, with encoded or
/// backward slashes, and before path parameters (`..;x=y`).
fn climbs(path: &str) -> bool {
    let mut rest = path.as_bytes();
    let mut segment = Segment::default();
    while let Some((byte, after)) = next(rest) {
        rest = after;
        match byte {
            b'/' | b'\\' if segment.is_parent() => return true,
            b'/' | b'\\' => segment = Segment::default(),
            b';' => segment.parameters = true,
            b'.' if !segment.parameters => segment.dots += 1,
            _ => segment.other |= !segment.parameters,
        }
    }
    segment.is_parent()
}

#[derive(Default)]
struct Segment {
    dots: usize,
    other: bool,
    parameters: bool,
}

impl Segment {
    fn is_parent(&self) -> bool {
        self.dots == 2 && !self.other
    }
}

/// The first byte, its percent-encoding undone, and what follows.
fn next(bytes: &[u8]) -> Option<(u8, &[u8])> {
    if let [b'%', high, low, after @ ..] = bytes
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some((high << 4 | low, after));
    }
    bytes.split_first().map(|(byte, after)| (*byte, after))
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

fn names_fields(request: &Request<'_>) -> bool {
    let values = request.headers.get_all(CONNECTION).iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .any(|name| !is_option(&name) && request.headers.contains_key(name))
}

fn is_option(name: &HeaderName) -> bool {
    CONNECTION_OPTIONS.contains(name)
        || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "http2-settings"
        )
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn of(target: &str, headers: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_static(value));
        }
        ambiguity(&Request {
            method: "GET",
            authority: "app",
            scheme: "http",
            target,
            headers: &map,
        })
    }

    #[test]
    fn a_path_that_climbs_has_two_readings() {
        for path in [
            "/a/../b",
            "/..",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a/..;/b",
            "/a/..;x=../b",
            "/a/..%3bx/b",
            "/a%2f..%2Fb",
            "/a\\..\\b",
            "/a%5c..%5Cb",
            "//../b",
        ] {
            assert!(of(path, &[]).is_some(), "{path}");
        }
        for path in [
            "/",
            "/a/b",
            "/a/.../b",
            "/a/..b",
            "/a..",
            "/a;..",
            "/a/;../b",
            "/a?x=/../b",
            "/%",
            "/%2",
            "/./a",
        ] {
            assert_eq!(of(path, &[]), None, "{path}");
        }
    }

    #[test]
    fn one_host_is_one_reading() {
        assert_eq!(of("/", &[("host", "a")]), None);
        assert!(of("/", &[("host", "a"), ("host", "b")]).is_some());
    }

    #[test]
    fn fields_that_rules_saw_reach_the_application() {
        assert!(of("/", &[("connection", "close, X-Team"), ("x-team", "a")]).is_some());
        assert!(of("/", &[("connection", "host"), ("host", "a")]).is_some());
        assert_eq!(of("/", &[("connection", "x-team")]), None);
        let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(of("/", &upgrade), None);
        assert_eq!(of("/", &[("connection", "te"), ("te", "trailers")]), None);
    }
}
