//! The two tables that an index refers to (RFC 7541 §2.3).

use std::collections::VecDeque;

use http::{HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};

use super::{Header, LIMIT};

/// The first index of the dynamic table.
pub(super) const FIRST_DYNAMIC: usize = HEADERS.len() + 1;

/// Entries that come and go, the newest first, each with its size in octets.
#[derive(Debug)]
pub(super) struct Dynamic<T> {
    entries: VecDeque<(usize, T)>,
    size: usize,
    limit: usize,
}

impl<T> Dynamic<T> {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            limit: LIMIT,
        }
    }

    /// The entry before which so many newer ones were inserted.
    pub(super) fn get(&self, age: usize) -> Option<&T> {
        self.entries.get(age).map(|(_, entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Makes room for an entry and adds it; one that is larger than the table leaves it empty (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, size: usize, entry: T) {
        self.evict(self.limit.saturating_sub(size));
        if size <= self.limit {
            self.size += size;
            self.entries.push_front((size, entry));
        }
    }

    pub(super) fn resize(&mut self, limit: usize) {
        self.limit = limit;
        self.evict(limit);
    }

    fn evict(&mut self, limit: usize) {
        while self.size > limit
            && let Some((size, _)) = self.entries.pop_back()
        {
            self.size -= size;
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

macro_rules! static_table {
    ($($name:literal $value:literal)*) => {
        /// The static table (RFC 7541 Appendix A), of which the first has index 1.
        pub(super) static STATIC: [(&str, &str); 61] = [$(($name, $value)),*];
        /// The same as they are decoded.
        pub(super) static HEADERS: [Header; 61] = [$(header($name, $value)),*];
    };
}

static_table! {
    ":authority" ""
    ":method" "GET"
    ":method" "POST"
    ":path" "/"
    ":path" "/index.html"
    ":scheme" "http"
    ":scheme" "https"
    ":status" "200"
    ":status" "204"
    ":status" "206"
    ":status" "304"
    ":status" "400"
    ":status" "404"
    ":status" "500"
    "accept-charset" ""
    "accept-encoding" "gzip, deflate"
    "accept-language" ""
    "accept-ranges" ""
    "accept" ""
    "access-control-allow-origin" ""
    "age" ""
    "allow" ""
    "authorization" ""
    "cache-control" ""
    "content-disposition" ""
    "content-encoding" ""
    "content-language" ""
    "content-length" ""
    "content-location" ""
    "content-range" ""
    "content-type" ""
    "cookie" ""
    "date" ""
    "etag" ""
    "expect" ""
    "expires" ""
    "from" ""
    "host" ""
    "if-match" ""
    "if-modified-since" ""
    "if-none-match" ""
    "if-range" ""
    "if-unmodified-since" ""
    "last-modified" ""
    "link" ""
    "location" ""
    "max-forwards" ""
    "proxy-authenticate" ""
    "proxy-authorization" ""
    "range" ""
    "referer" ""
    "refresh" ""
    "retry-after" ""
    "server" ""
    "set-cookie" ""
    "strict-transport-security" ""
    "transfer-encoding" ""
    "user-agent" ""
    "vary" ""
    "via" ""
    "www-authenticate" ""
}

const fn header(name: &'static str, value: &'static str) -> Header {
    match (name.as_bytes(), value.as_bytes()) {
        (b":authority", _) => Header::Authority(HeaderValue::from_static(value)),
        (b":method", b"GET") => Header::Method(Method::GET),
        (b":method", _) => Header::Method(Method::POST),
        (b":path", _) => Header::Path(PathAndQuery::from_static(value)),
        (b":scheme", _) => Header::Scheme(HeaderValue::from_static(value)),
        (b":status", b"200") => Header::Status(StatusCode::OK),
        (b":status", b"204") => Header::Status(StatusCode::NO_CONTENT),
        (b":status", b"206") => Header::Status(StatusCode::PARTIAL_CONTENT),
        (b":status", b"304") => Header::Status(StatusCode::NOT_MODIFIED),
        (b":status", b"400") => Header::Status(StatusCode::BAD_REQUEST),
        (b":status", b"404") => Header::Status(StatusCode::NOT_FOUND),
        (b":status", _) => Header::Status(StatusCode::INTERNAL_SERVER_ERROR),
        _ => Header::Field(HeaderName::from_static(name), HeaderValue::from_static(value)),
    }
}
