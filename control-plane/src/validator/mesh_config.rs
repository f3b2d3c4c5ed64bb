//! Rules for MeshConfig.

use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use weir_xds::algorithms;

use crate::spec::{Finding, LOG_LEVELS, MeshConfig, Sidecar};

/// The log levels of a control plane.
const OSM_LOG_LEVELS: [&str; 8] = [
    "trace", "debug", "info", "warn", "error", "fatal", "panic", "disabled",
];
/// What OSM writes where nobody chose: not worth a word.
const OSM_KEY_BITS: u32 = 2048;
const TLS_VERSIONS: [&str; 5] = ["TLS_AUTO", "TLSv1_0", "TLSv1_1", "TLSv1_2", "TLSv1_3"];

/// What is wrong with a MeshConfig, and what of it has no effect.
#[must_use]
pub fn mesh_config(config: &MeshConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_tls(config, &mut findings);
    check_log_level(config, &mut findings);
    check_ranges(config, &mut findings);
    check_ports(config, &mut findings);
    check_interfaces(config, &mut findings);
    if config
        .spec
        .certificate
        .service_cert_validity_duration
        .is_some_and(|it| it.0 < Duration::from_secs(1))
    {
        findings.push(Finding::error(
            "spec.certificate.serviceCertValidityDuration",
            "certificates cannot be valid for less than a second",
            "write a duration such as 24h",
        ));
    }
    findings.extend(without_effect(config));
    findings
}

fn speaks_1_2(sidecar: &Sidecar) -> bool {
    matches!(
        sidecar.tls_min_protocol_version.as_deref(),
        Some("TLSv1_0" | "TLSv1_1" | "TLSv1_2")
    ) || sidecar.tls_max_protocol_version.as_deref() == Some("TLSv1_2")
}

fn check_tls(config: &MeshConfig, findings: &mut Vec<Finding>) {
    let sidecar = &config.spec.sidecar;
    let versions = [
        ("tlsMinProtocolVersion", &sidecar.tls_min_protocol_version),
        ("tlsMaxProtocolVersion", &sidecar.tls_max_protocol_version),
    ];
    for (name, version) in versions {
        if let Some(version) = version
            .as_deref()
            .filter(|version| !TLS_VERSIONS.contains(version))
        {
            findings.push(Finding::error(
                format!("spec.sidecar.{name}"),
                format!("{version:?} is not a TLS version"),
                format!("write one of {}", TLS_VERSIONS.join(", ")),
            ));
        }
    }
    let lists = [
        (
            "cipherSuites",
            &sidecar.cipher_suites,
            &algorithms::CIPHER_SUITES[..],
        ),
        ("ecdhCurves", &sidecar.ecdh_curves, &algorithms::CURVES[..]),
    ];
    for (name, wanted, known) in lists {
        for (at, wanted) in wanted.iter().enumerate() {
            if !known.contains(&wanted.as_str()) {
                findings.push(Finding::error(
                    format!("spec.sidecar.{name}[{at}]"),
                    format!("the sidecars do not know {wanted:?}"),
                    format!("leave it out, or write one of {}", known.join(", ")),
                ));
            }
        }
    }
    match (
        sidecar.tls_min_protocol_version.as_deref(),
        sidecar.tls_max_protocol_version.as_deref(),
    ) {
        (_, Some("TLSv1_0" | "TLSv1_1")) => findings.push(Finding::error(
            "spec.sidecar.tlsMaxProtocolVersion",
            "the sidecars speak TLS 1.2 and 1.3 only",
            "write TLSv1_3",
        )),
        (Some("TLSv1_3"), Some("TLSv1_2")) => findings.push(Finding::error(
            "spec.sidecar.tlsMaxProtocolVersion",
            "the newest version is older than the oldest",
            "write TLSv1_3",
        )),
        _ => {}
    }
}

/// A sidecar does not start with a level that it does not know.
fn check_log_level(config: &MeshConfig, findings: &mut Vec<Finding>) {
    let level = config.spec.sidecar.log_level.as_deref();
    if let Some(level) = level.filter(|level| !LOG_LEVELS.contains(level)) {
        findings.push(Finding::error(
            "spec.sidecar.logLevel",
            format!("{level:?} is not a log level"),
            format!("write one of {}", LOG_LEVELS.join(", ")),
        ));
    }
    let level = config.spec.observability.osm_log_level.as_deref();
    if let Some(level) = level.filter(|level| !level.is_empty() && !OSM_LOG_LEVELS.contains(level)) {
        findings.push(Finding::error(
            "spec.observability.osmLogLevel",
            format!("{level:?} is not a log level"),
            format!("write one of {}", OSM_LOG_LEVELS.join(", ")),
        ));
    }
}

fn check_ranges(config: &MeshConfig, findings: &mut Vec<Finding>) {
    let traffic = &config.spec.traffic;
    let lists = [
        (
            "outboundIPRangeExclusionList",
            &traffic.outbound_ip_range_exclusion_list,
        ),
        (
            "outboundIPRangeInclusionList",
            &traffic.outbound_ip_range_inclusion_list,
        ),
    ];
    for (name, list) in lists {
        for (index, range) in list.iter().enumerate() {
            if range.parse::<IpNet>().is_err() {
                findings.push(Finding::error(
                    format!("spec.traffic.{name}[{index}]"),
                    format!("{range:?} is not an address range"),
                    "write it as 10.0.0.0/8 or fd00::/8",
                ));
            }
        }
    }
}

fn check_ports(config: &MeshConfig, findings: &mut Vec<Finding>) {
    let traffic = &config.spec.traffic;
    let lists = [
        ("outboundPortExclusionList", &traffic.outbound_port_exclusion_list),
        ("inboundPortExclusionList", &traffic.inbound_port_exclusion_list),
    ];
    for (name, list) in lists {
        let wrong = list.iter().enumerate().filter(|(_, port)| **port == 0);
        findings.extend(wrong.map(|(index, _)| {
            Finding::error(
                format!("spec.traffic.{name}[{index}]"),
                "0 is not a port",
                "write a port from 1 to 65535",
            )
        }));
    }
}

/// What `weir-init` takes for a name; it redirects nothing, and no pod starts, where it is given another.
fn check_interfaces(config: &MeshConfig, findings: &mut Vec<Finding>) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte);
    let valid =
        |name: &str| (1..=15).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(allowed);
    let names = config
        .spec
        .traffic
        .network_interface_exclusion_list
        .iter()
        .enumerate();
    findings.extend(names.filter(|(_, name)| !valid(name)).map(|(index, name)| {
        Finding::error(
            format!("spec.traffic.networkInterfaceExclusionList[{index}]"),
            format!("{name:?} is not the name of an interface"),
            "write 1 to 15 letters, digits, or any of . _ - : @",
        )
    }));
}

fn without_effect(config: &MeshConfig) -> impl Iterator<Item = Finding> {
    let spec = &config.spec;
    let (sidecar, flags) = (&spec.sidecar, &spec.feature_flags);
    let enabled = |value: &Option<Value>| {
        let enable = value.as_ref().and_then(|value| value.get("enable"));
        enable.and_then(Value::as_bool).unwrap_or(false)
    };
    let set = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
    let fields = [
        (
            "sidecar.envoyImage",
            set(&sidecar.envoy_image),
            "there is no Envoy in the sidecar",
        ),
        (
            "sidecar.envoyWindowsImage",
            set(&sidecar.envoy_windows_image),
            "there is no sidecar for Windows",
        ),
        (
            "sidecar.initContainerImage",
            set(&sidecar.init_container_image),
            "the injector names the image",
        ),
        (
            "sidecar.configResyncInterval",
            sidecar.config_resync_interval.is_some_and(|it| !it.0.is_zero()),
            "a change is sent as it happens; nothing is sent again",
        ),
        (
            "sidecar.cipherSuites",
            !sidecar.cipher_suites.is_empty() && !speaks_1_2(sidecar),
            "it is for TLS 1.2, which tlsMinProtocolVersion TLSv1_2 allows",
        ),
        (
            "traffic.inboundExternalAuthorization",
            enabled(&spec.traffic.inbound_external_authorization),
            "not supported yet",
        ),
        (
            "observability.tracing",
            enabled(&spec.observability.tracing),
            "not supported yet",
        ),
        (
            "observability.enableDebugServer",
            spec.observability.enable_debug_server,
            "the debug pages are always there, on the health port",
        ),
        (
            "certificate.certKeyBitSize",
            spec.certificate
                .cert_key_bit_size
                .is_some_and(|bits| bits != OSM_KEY_BITS),
            "keys of sidecars are ECDSA P-256",
        ),
        (
            "certificate.ingressGateway",
            spec.certificate.ingress_gateway.is_some(),
            "not supported yet",
        ),
        (
            "featureFlags.enableWASMStats",
            flags.enable_wasm_stats == Some(false),
            "sidecars always give their metrics",
        ),
        (
            "featureFlags.enableSnapshotCacheMode",
            flags.enable_snapshot_cache_mode == Some(true),
            "it is about a cache of OSM's",
        ),
        (
            "featureFlags.enableAsyncProxyServiceMapping",
            flags.enable_async_proxy_service_mapping == Some(true),
            "it is about a cache of OSM's",
        ),
        (
            "featureFlags.enableEnvoyActiveHealthChecks",
            flags.enable_envoy_active_health_checks == Some(true),
            "not supported yet",
        ),
        (
            "featureFlags.enableRetryPolicy",
            flags.enable_retry_policy == Some(true),
            "not supported yet",
        ),
        (
            "featureFlags.enableMeshRootCertificate",
            flags.enable_mesh_root_certificate == Some(true),
            "not supported yet",
        ),
    ];
    fields
        .into_iter()
        .filter(|(_, set, _)| *set)
        .map(|(field, _, why)| {
            Finding::warning(
                format!("spec.{field}"),
                format!("the field has no effect: {why}"),
                "remove it, unless another mesh reads it",
            )
        })
}
