//! Why the proxy itself ended a connection or answered a request.

use std::fmt;

use http::StatusCode;

/// Every response or close that the proxy makes by itself carries one. Its name is the metric label, the log
/// field and the `x-weir-reason` response header, so an operator can search for one word everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No filter chain of the listener matches the connection.
    NoFilterChain,
    /// The destination is one of the proxy's own ports: forwarding would loop.
    Loop,
    /// The destination is not known and the mesh allows no egress.
    UnknownDestination,
    /// The control plane did not say in time whether the destination is a service of the mesh.
    ControlPlaneSilent,
    /// The client sent nothing to be recognized before the detect timeout, and the listener closes then.
    DetectTimeout,
    /// The TLS handshake with the client failed.
    TlsHandshake,
    /// Authorization of the connection refused it.
    RbacConnection,
    /// Authorization of the request refused it.
    RbacRequest,
    /// An open connection is no longer allowed by a changed policy.
    PolicyRevoked,
    /// No route matches the request.
    NoRoute,
    /// The request asks for an upgrade that is not let through.
    UpgradeRefused,
    /// The route answers by itself.
    DirectResponse,
    /// The cluster is not known.
    NoCluster,
    /// The cluster has no endpoint that can be used.
    NoEndpoint,
    /// Too many requests or connections to the cluster at a time, or connections to too many addresses
    /// not known yet.
    Overflow,
    /// The TCP connect to the endpoint failed.
    ConnectFailed,
    /// The TCP connect or TLS handshake with the endpoint took too long.
    ConnectTimeout,
    /// The TLS handshake with the endpoint failed, its identity included.
    UpstreamTls,
    /// The endpoint closed the connection before its response began.
    UpstreamReset,
    /// The endpoint's response is not valid HTTP.
    UpstreamProtocol,
    /// The response was not complete within the route's timeout.
    RequestTimeout,
    /// No byte either way within the idle timeout.
    IdleTimeout,
    /// What the client sent is not HTTP, or more than a request may be.
    BadRequest,
    /// The request's body broke off.
    ClientReset,
    /// More requests than the rate limit allows.
    RateLimited,
    /// The proxy is shutting down.
    Draining,
    /// Nothing was wrong: the peers closed.
    Closed,
}

impl Reason {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoFilterChain => "no_filter_chain",
            Self::Loop => "loop",
            Self::UnknownDestination => "unknown_destination",
            Self::ControlPlaneSilent => "control_plane_silent",
            Self::DetectTimeout => "detect_timeout",
            Self::TlsHandshake => "tls_handshake",
            Self::RbacConnection => "rbac_connection",
            Self::RbacRequest => "rbac_request",
            Self::PolicyRevoked => "policy_revoked",
            Self::NoRoute => "no_route",
            Self::UpgradeRefused => "upgrade_refused",
            Self::DirectResponse => "direct_response",
            Self::NoCluster => "no_cluster",
            Self::NoEndpoint => "no_endpoint",
            Self::Overflow => "overflow",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::RequestTimeout => "request_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::BadRequest => "bad_request",
            Self::ClientReset => "client_reset",
            Self::RateLimited => "rate_limited",
            Self::Draining => "draining",
            Self::Closed => "closed",
        }
    }

    /// The status of an HTTP response for it, as Envoy answers.
    pub fn status(self) -> StatusCode {
        match self {
            Self::RbacConnection | Self::RbacRequest | Self::PolicyRevoked | Self::UpgradeRefused => {
                StatusCode::FORBIDDEN
            }
            Self::NoRoute | Self::NoFilterChain => StatusCode::NOT_FOUND,
            Self::RequestTimeout | Self::IdleTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::BadRequest | Self::ClientReset => StatusCode::BAD_REQUEST,
            Self::UpstreamProtocol => StatusCode::BAD_GATEWAY,
            Self::DirectResponse | Self::Closed => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
