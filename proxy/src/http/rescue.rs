//! Responses that the proxy makes itself. No other place writes any.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, LOCATION},
};

use super::{Body, Harmless};
use crate::reason::Reason;

/// The header that names the [`Reason`].
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-weir-reason");

const GRPC: &str = "application/grpc";

/// A request that is not forwarded.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What the client is told.
    pub text: Cow<'static, str>,
    /// The status, where it is not the reason's own.
    pub status: Option<StatusCode>,
    /// Where to, for a redirect.
    pub location: Option<HeaderValue>,
    /// Why the request may be sent elsewhere all the same.
    pub again: Option<Harmless>,
}

impl Refusal {
    /// For a reason, with what the client is told.
    pub fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            text: text.into(),
            status: None,
            location: None,
            again: None,
        }
    }
}

/// Whether the request is gRPC, whose clients read errors from `grpc-status` only.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(GRPC.as_bytes()))
}

/// The response for a refusal; for gRPC one without a body and with `grpc-status`.
pub fn respond(refusal: Refusal, grpc: bool, close: bool) -> Response<Body> {
    let status = refusal.status.unwrap_or(refusal.reason.status());
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(REASON_HEADER, HeaderValue::from_static(refusal.reason.as_str()));
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(location) = refusal.location {
        headers.insert(LOCATION, location);
    }
    if grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
        headers.insert("grpc-status", grpc_status(status));
        if let Ok(message) = HeaderValue::from_str(&percent_encode(&refusal.text)) {
            headers.insert("grpc-message", message);
        }
        return response;
    }
    if !refusal.text.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        *response.body_mut() = match refusal.text {
            Cow::Borrowed(text) => Body::full(text),
            Cow::Owned(text) => Body::full(text),
        };
    }
    *response.status_mut() = status;
    response
}

/// The gRPC project's mapping of HTTP statuses; a timeout of ours is `DEADLINE_EXCEEDED`.
fn grpc_status(status: StatusCode) -> HeaderValue {
    HeaderValue::from_static(match status {
        StatusCode::OK => "0",
        StatusCode::BAD_REQUEST => "13",
        StatusCode::UNAUTHORIZED => "16",
        StatusCode::FORBIDDEN => "7",
        StatusCode::NOT_FOUND => "12",
        StatusCode::GATEWAY_TIMEOUT => "4",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => "14",
        _ => "2",
    })
}

/// As gRPC's HTTP/2 mapping encodes `grpc-message`.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_reason() {
        let refusal = Refusal::new(Reason::RbacRequest, "RBAC: access denied");
        let response = respond(refusal, false, false);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()[REASON_HEADER], "rbac_request");
    }

    #[test]
    fn grpc_clients_read_the_status_from_a_header() {
        let refusal = Refusal::new(Reason::NoEndpoint, "no 100% healthy endpoint\n");
        let response = respond(refusal, true, false);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(
            response.headers()["grpc-message"],
            "no 100%25 healthy endpoint%0A"
        );
    }
}
