//! OSM's own policy kinds, as far as they are checked. The mesh does not follow them yet.

use serde::Deserialize;
use serde_json::Value;

use super::{GoDuration, PolicyMeta, Subject};

/// `policy.openservicemesh.io/v1alpha1` Egress.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Egress {
    /// Name and namespace.
    pub metadata: PolicyMeta,
    /// Who may reach what outside the mesh.
    pub spec: EgressSpec,
}

/// The content of an [`Egress`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressSpec {
    /// ServiceAccounts.
    #[serde(default)]
    pub sources: Vec<Subject>,
    /// Host names.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Address ranges.
    #[serde(default)]
    pub ip_addresses: Vec<String>,
    /// Ports.
    #[serde(default)]
    pub ports: Vec<PolicyPort>,
    /// HTTPRouteGroups, and one UpstreamTrafficSetting at most.
    #[serde(default)]
    pub matches: Vec<ObjectReference>,
}

/// A port and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PolicyPort {
    /// The port.
    pub number: u16,
    /// What is spoken there, such as `http`.
    pub protocol: String,
}

/// Another object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// API group and version.
    pub api_group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// `policy.openservicemesh.io/v1alpha1` IngressBackend.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct IngressBackend {
    /// Name and namespace.
    pub metadata: PolicyMeta,
    /// Which services take traffic from whom.
    pub spec: IngressBackendSpec,
}

/// The content of an [`IngressBackend`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct IngressBackendSpec {
    /// The services.
    #[serde(default)]
    pub backends: Vec<IngressBackendPort>,
    /// Whom they take it from.
    #[serde(default)]
    pub sources: Vec<Subject>,
    /// OSM has it and does not read it.
    #[serde(default)]
    pub matches: Vec<ObjectReference>,
}

/// A target port of a service.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct IngressBackendPort {
    /// The service.
    pub name: String,
    /// The port.
    pub port: PolicyPort,
    /// TLS from the source.
    #[serde(default)]
    pub tls: Option<IngressTls>,
}

/// TLS from outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressTls {
    /// The source needs no certificate.
    #[serde(default)]
    pub skip_client_cert_validation: bool,
    /// Server names.
    #[serde(default)]
    pub sni_hosts: Vec<String>,
}

/// `policy.openservicemesh.io/v1alpha1` Retry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Retry {
    /// Name and namespace.
    pub metadata: PolicyMeta,
    /// Whose requests are tried again, and how.
    pub spec: RetrySpec,
}

/// The content of a [`Retry`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// A ServiceAccount.
    pub source: Subject,
    /// Services.
    #[serde(default)]
    pub destinations: Vec<Subject>,
    /// How.
    pub retry_policy: RetryPolicy,
}

/// How requests are tried again.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// On what: Envoy's words, separated by commas.
    pub retry_on: String,
    /// How long one try may take.
    #[serde(default)]
    pub per_try_timeout: Option<GoDuration>,
    /// How often at most.
    #[serde(default)]
    pub num_retries: Option<u32>,
    /// The first pause.
    #[serde(default)]
    pub retry_backoff_base_interval: Option<GoDuration>,
}

/// `policy.openservicemesh.io/v1alpha1` UpstreamTrafficSetting.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct UpstreamTrafficSetting {
    /// Name and namespace.
    pub metadata: PolicyMeta,
    /// The service, and how its traffic is limited.
    pub spec: UpstreamTrafficSpec,
}

/// The content of an [`UpstreamTrafficSetting`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTrafficSpec {
    /// The service's full DNS name.
    pub host: String,
    /// Limits of connections.
    #[serde(default)]
    pub connection_settings: Option<Value>,
    /// Limits of rates.
    #[serde(default)]
    pub rate_limit: Option<Value>,
    /// Limits of single routes.
    #[serde(default)]
    pub http_routes: Vec<LimitedRoute>,
}

/// A route with a limit of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitedRoute {
    /// The path, as the `pathRegex` of an HTTPRouteGroup.
    #[serde(default)]
    pub path: String,
    /// Its limit.
    #[serde(default)]
    pub rate_limit: Option<Value>,
}
