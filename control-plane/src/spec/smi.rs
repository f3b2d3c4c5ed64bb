//! The SMI objects: TrafficTarget `access/v1alpha3`, HTTPRouteGroup and TCPRoute `specs/v1alpha4`, TrafficSplit
//! `split/v1alpha2` (and the later versions where they say the same).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// What every policy object begins with.
pub type PolicyMeta = ObjectMeta;

/// Lets principals reach the pods of a ServiceAccount, as far as its rules say.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TrafficTarget {
    /// Name and namespace; the namespace must be the destination's.
    pub metadata: PolicyMeta,
    /// The policy.
    pub spec: TrafficTargetSpec,
}

/// The policy of a [`TrafficTarget`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TrafficTargetSpec {
    /// Who is reached.
    pub destination: Subject,
    /// Who may.
    #[serde(default)]
    pub sources: Vec<Subject>,
    /// What of the destination.
    #[serde(default)]
    pub rules: Vec<TargetRule>,
}

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Subject {
    /// `ServiceAccount`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; the TrafficTarget's where it is not given.
    #[serde(default)]
    pub namespace: Option<String>,
}

/// A route object, in the TrafficTarget's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TargetRule {
    /// `HTTPRouteGroup` or `TCPRoute`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Names of the matches of an HTTPRouteGroup that are meant; none: all of them.
    #[serde(default)]
    pub matches: Option<Vec<String>>,
}

/// Named HTTP requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HttpRouteGroup {
    /// Name and namespace.
    pub metadata: PolicyMeta,
    /// The matches.
    pub spec: HttpRouteGroupSpec,
}

/// The matches of an [`HttpRouteGroup`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HttpRouteGroupSpec {
    /// The matches.
    #[serde(default)]
    pub matches: Vec<HttpMatch>,
}

/// Requests with a path, a method and headers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    /// What TrafficTargets call it.
    pub name: String,
    /// Expression the whole path must match; `.*` where it is not given.
    #[serde(default)]
    pub path_regex: Option<String>,
    /// Methods; none or `*`: every method.
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    /// Header names and the expressions their whole values must match; all of all maps.
    #[serde(default)]
    pub headers: Option<Vec<BTreeMap<String, String>>>,
}

/// Named TCP ports.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TcpRoute {
    /// Name and namespace.
    pub metadata: PolicyMeta,
    /// The ports.
    #[serde(default)]
    pub spec: TcpRouteSpec,
}

/// The ports of a [`TcpRoute`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TcpRouteSpec {
    /// The ports.
    #[serde(default)]
    pub matches: TcpMatch,
}

/// TCP ports of the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TcpMatch {
    /// `name` of the match; SMI has it, nothing refers to it.
    #[serde(default)]
    pub name: Option<String>,
    /// Target ports; none: every port.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// Shares a service's traffic out among services.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TrafficSplit {
    /// Name and namespace.
    pub metadata: PolicyMeta,
    /// The shares.
    pub spec: TrafficSplitSpec,
}

/// The shares of a [`TrafficSplit`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TrafficSplitSpec {
    /// The apex: the service clients ask for, as `name`, `name.namespace` or its full DNS name.
    pub service: String,
    /// Who gets how much.
    #[serde(default)]
    pub backends: Vec<TrafficSplitBackend>,
    /// Requests to which the split is restricted; from `v1alpha3` on, refused here.
    #[serde(default)]
    pub matches: Option<serde_json::Value>,
}

/// A backend of a [`TrafficSplit`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TrafficSplitBackend {
    /// Name of a Service in the same namespace.
    pub service: String,
    /// Its share of the sum of weights.
    pub weight: u32,
}
