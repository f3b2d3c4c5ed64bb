//! Routes, after `envoy.config.route.v3`.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};

use super::{HeaderMatcher, Rbac, Regex, StringMatcher};

/// The virtual hosts of an HTTP listener.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    /// Resource name.
    pub name: String,
    /// In the order given; a request belongs to the one with the most specific domain.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Changes to every request and response.
    pub headers: HeaderMutations,
}

/// Routes for some domains.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualHost {
    /// Name, for logs.
    pub name: String,
    /// Lower-case: exact, `*.suffix`, `prefix.*` or `*`; searched in that order, the longest first.
    pub domains: Vec<String>,
    /// The first that matches is taken.
    pub routes: Vec<Arc<Route>>,
    /// Changes to its requests and responses.
    pub headers: HeaderMutations,
}

/// One route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Name, for logs.
    pub name: String,
    /// When it applies.
    pub matches: RouteMatch,
    /// What is done.
    pub action: RouteAction,
    /// Authorization of requests on this route, replacing the listener's. Outer `None`: the listener's applies;
    /// inner `None`: everything is allowed.
    pub rbac: Option<Option<Arc<Rbac>>>,
    /// Changes to its requests and responses.
    pub headers: HeaderMutations,
}

/// When a route applies: all of it must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// The path, without its query.
    pub path: PathMatch,
    /// Headers, pseudo-headers included.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameters.
    pub query: Vec<QueryMatcher>,
    /// Only gRPC requests (`content-type: application/grpc...`).
    pub grpc: bool,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// Starts with; ASCII case ignored when the flag is set.
    Prefix(String, bool),
    /// Equal; ASCII case ignored when the flag is set.
    Exact(String, bool),
    /// Equal, or starts with it followed by `/`.
    Segment(String),
    /// Matches as a whole.
    Regex(Regex),
}

/// A condition on a query parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatcher {
    /// Its name.
    pub name: String,
    /// What its first value must be; `None`: present.
    pub value: Option<StringMatcher>,
}

/// What is done with a request.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "routes are shared behind an Arc, and nearly all forward"
)]
pub enum RouteAction {
    /// Sent on.
    Forward(Destination),
    /// Answered here.
    Respond {
        /// Status.
        status: StatusCode,
        /// Body.
        body: Arc<str>,
    },
    /// Answered with a redirect.
    Redirect {
        /// Status.
        status: StatusCode,
        /// New scheme, if changed.
        scheme: Option<String>,
        /// New host, if changed.
        host: Option<String>,
        /// New port, if changed.
        port: Option<u16>,
        /// New path, if changed.
        path: Option<String>,
    },
}

/// Where requests are sent, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// Clusters by weight; never empty.
    pub clusters: Vec<WeightedCluster>,
    /// Whole response within this; `None`: no limit.
    pub timeout: Option<Duration>,
    /// No byte either way for this long; `None`: the listener's.
    pub idle_timeout: Option<Duration>,
    /// Retries; `None`: none.
    pub retry: Option<Retry>,
    /// Change of the path.
    pub rewrite: Option<PathRewrite>,
    /// New `Host`.
    pub host_rewrite: Option<HeaderValue>,
    /// Upgrades let through, besides the listener's.
    pub upgrades: Vec<String>,
}

/// A cluster and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    /// Its name.
    pub cluster: String,
    /// Its share of the sum of weights; 0 gets nothing.
    pub weight: u32,
}

/// A change of the path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathRewrite {
    /// The matched prefix (or whole path) is replaced.
    Prefix(String),
    /// What the expression finds is replaced.
    Regex {
        /// Searched, not anchored.
        pattern: Regex,
        /// `\1` stands for the first group.
        substitution: String,
    },
}

/// When and how often a request is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Any of these.
    pub on: Vec<RetryOn>,
    /// Tries after the first.
    pub num_retries: u32,
    /// Each try within this; `None`: only the route's limit.
    pub per_try_timeout: Option<Duration>,
    /// The codes of [`RetryOn::StatusCodes`].
    pub status_codes: Vec<u16>,
    /// First pause.
    pub base_interval: Duration,
    /// Longest pause.
    pub max_interval: Duration,
}

/// A condition to try again, by Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// `5xx`: a status of 500 and above, or no response.
    ServerError,
    /// `gateway-error`: status 502, 503 or 504, or no response.
    GatewayError,
    /// `reset`: no response.
    Reset,
    /// `connect-failure`: no connection.
    ConnectFailure,
    /// `refused-stream`: the endpoint says that it did not look at the request.
    RefusedStream,
    /// `retriable-4xx`: status 409.
    Conflict,
    /// `retriable-status-codes`: one of [`Retry::status_codes`].
    StatusCodes,
    /// `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted` or `unavailable`: this gRPC status in the
    /// response's header.
    Grpc(u8),
}

/// Changes to headers on the way in and out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderMutations {
    /// Set or added on requests.
    pub request_set: Vec<HeaderMutation>,
    /// Removed from requests.
    pub request_remove: Vec<HeaderName>,
    /// Set or added on responses.
    pub response_set: Vec<HeaderMutation>,
    /// Removed from responses.
    pub response_remove: Vec<HeaderName>,
}

/// One header to set or add.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMutation {
    /// Name.
    pub name: HeaderName,
    /// Value.
    pub value: HeaderValue,
    /// Added beside those there (`true`), or in their place.
    pub append: bool,
}
