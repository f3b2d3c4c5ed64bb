//! OSM's MeshConfig, `config.openservicemesh.io/v1alpha2`. Every field of OSM is read; the
//! [`validator`](crate::validator) says which have no meaning here.

use std::{fmt, time::Duration};

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::PolicyMeta;

/// The mesh's settings.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MeshConfig {
    /// Name, [`MeshConfig::NAME`], and namespace, the control plane's.
    pub metadata: PolicyMeta,
    /// The settings.
    #[serde(default)]
    pub spec: MeshConfigSpec,
}

impl MeshConfig {
    /// The name of the one MeshConfig that counts, in the control plane's namespace.
    pub const NAME: &str = "osm-mesh-config";
}

/// The settings of a [`MeshConfig`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfigSpec {
    /// Sidecars.
    pub sidecar: Sidecar,
    /// What may go where.
    pub traffic: Traffic,
    /// Logs and tracing.
    pub observability: Observability,
    /// Workload certificates.
    pub certificate: Certificate,
    /// OSM's feature flags.
    pub feature_flags: FeatureFlags,
}

/// The log levels of a sidecar, `critical` and `warning` being Envoy's names.
pub const LOG_LEVELS: [&str; 8] = [
    "off", "critical", "error", "warn", "warning", "info", "debug", "trace",
];

/// Settings of sidecars.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sidecar {
    /// The init container runs privileged.
    pub enable_privileged_init_container: bool,
    /// One of [`LOG_LEVELS`].
    pub log_level: Option<String>,
    /// OSM's proxy image.
    pub envoy_image: Option<String>,
    /// OSM's proxy image for Windows.
    pub envoy_windows_image: Option<String>,
    /// OSM's init container image.
    pub init_container_image: Option<String>,
    /// Most proxies a controller serves; 0: no limit.
    pub max_data_plane_connections: u32,
    /// How often OSM rebuilt everything.
    pub config_resync_interval: Option<GoDuration>,
    /// Resources of the sidecar container.
    pub resources: Option<ResourceRequirements>,
    /// Oldest TLS version between sidecars.
    pub tls_min_protocol_version: Option<String>,
    /// Newest TLS version between sidecars.
    pub tls_max_protocol_version: Option<String>,
    /// Cipher suites of TLS 1.2.
    pub cipher_suites: Vec<String>,
    /// Curves.
    pub ecdh_curves: Vec<String>,
    /// Where the sidecar reaches the application.
    pub local_proxy_mode: Option<LocalProxyMode>,
}

/// Where the sidecar reaches the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum LocalProxyMode {
    /// On loopback.
    Localhost,
    /// At the pod's address.
    PodIP,
}

/// What may go where.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// Addresses outside the mesh are passed through; on where it is not given.
    pub enable_egress: Option<bool>,
    /// Every service of the mesh is reachable; off where it is not given.
    pub enable_permissive_traffic_policy_mode: Option<bool>,
    /// Ranges that are never redirected.
    #[serde(rename = "outboundIPRangeExclusionList")]
    pub outbound_ip_range_exclusion_list: Vec<String>,
    /// The only ranges that are redirected.
    #[serde(rename = "outboundIPRangeInclusionList")]
    pub outbound_ip_range_inclusion_list: Vec<String>,
    /// Ports that are never redirected.
    pub outbound_port_exclusion_list: Vec<u16>,
    /// Ports that are never redirected.
    pub inbound_port_exclusion_list: Vec<u16>,
    /// Interfaces that are never redirected.
    pub network_interface_exclusion_list: Vec<String>,
    /// OSM's external authorization.
    pub inbound_external_authorization: Option<Value>,
}

/// Logs and tracing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Observability {
    /// Log level of OSM's control plane.
    pub osm_log_level: Option<String>,
    /// OSM's debug server.
    pub enable_debug_server: bool,
    /// Tracing.
    pub tracing: Option<Value>,
}

/// Workload certificates.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Certificate {
    /// How long they are valid.
    pub service_cert_validity_duration: Option<GoDuration>,
    /// Size of OSM's RSA keys.
    pub cert_key_bit_size: Option<u32>,
    /// A certificate for an ingress gateway.
    pub ingress_gateway: Option<Value>,
}

/// OSM's feature flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FeatureFlags {
    /// OSM's metrics in Envoy.
    #[serde(rename = "enableWASMStats")]
    pub enable_wasm_stats: Option<bool>,
    /// Egress objects are used.
    pub enable_egress_policy: Option<bool>,
    /// IngressBackend objects are used.
    pub enable_ingress_backend_policy: Option<bool>,
    /// A cache in OSM's control plane.
    pub enable_snapshot_cache_mode: Option<bool>,
    /// A cache in OSM's control plane.
    pub enable_async_proxy_service_mapping: Option<bool>,
    /// Active health checks.
    pub enable_envoy_active_health_checks: Option<bool>,
    /// Retry objects are used.
    pub enable_retry_policy: Option<bool>,
    /// MeshRootCertificate objects are used.
    pub enable_mesh_root_certificate: Option<bool>,
}

/// A duration as Go writes it: `24h`, `1h30m`, `1.5s`, `200ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// Reads a duration; `None` where it is not one, or negative.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "0" {
            return Some(Self(Duration::ZERO));
        }
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let seconds = match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
            total = total.checked_add(part)?;
            rest = tail;
        }
        (!text.is_empty()).then_some(Self(total))
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 24h or 1h30m")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                GoDuration::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Text)
    }
}
