//! A stock Envoy in place of `weir-proxy`: its bootstrap, its container, and the agent beside it that has a
//! certificate signed, which Envoy cannot do.

use k8s_openapi::{
    api::core::v1::{Container, EmptyDirVolumeSource, HTTPGetAction, Probe, Volume, VolumeMount},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};

use super::{
    Settings, bootstrap,
    containers::{self, Sidecar},
    probes::ProbeListeners,
};

/// The agent that has a certificate signed for Envoy.
pub(super) const AGENT_CONTAINER: &str = "weir-identity";
/// Where the agent writes the certificate and the roots, and Envoy reads them. In memory: the key is there.
pub const IDENTITY_DIRECTORY: &str = "/var/run/weir";
const VOLUME: &str = "weir-identity";

/// Name of the listener that shows metrics and readiness.
pub(super) const PAGES: &str = "pages";
const PAGES_PORT: u16 = 15010;
const ADMIN_PORT: u16 = 15000;
const METRICS: &str = "/stats/prometheus";
/// As many threads as Envoy may have; by itself it takes one for each core of the node.
const CONCURRENCY: u32 = 2;
/// After a change of policy, connections that it may concern end within this many seconds.
const DRAIN_S: u32 = 5;

/// Envoy as the sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envoy {
    /// Its image. Version 1.36 or later.
    pub image: String,
    /// How it talks to the control plane.
    pub protocol: Protocol,
    /// `SO_MARK` of the sockets that it opens, where the redirect knows the sidecar by that instead of its user.
    pub socket_mark: Option<u32>,
}

/// A variant of the aggregated stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Incremental.
    #[default]
    Delta,
    /// State of the world.
    StateOfTheWorld,
}

impl Protocol {
    const fn api_type(self) -> &'static str {
        match self {
            Self::Delta => "DELTA_GRPC",
            Self::StateOfTheWorld => "GRPC",
        }
    }
}

/// The agent and Envoy, in the order in which they start.
pub(super) fn sidecars(settings: &Settings, envoy: &Envoy, sidecar: &Sidecar) -> [Container; 2] {
    let agent = Container {
        name: AGENT_CONTAINER.to_owned(),
        args: Some(vec![
            "--mode=identity".to_owned(),
            format!("--identity-dir={IDENTITY_DIRECTORY}"),
            "--service-node=$(POD_UID)".to_owned(),
            format!("--log-level={}", sidecar.log_level),
            "--stats-address=off".to_owned(),
            containers::BOOTSTRAP.to_owned(),
            sidecar.agent_bootstrap.clone(),
        ]),
        ports: None,
        ..containers::proxy(settings, sidecar)
    };
    let agent = with_identity(agent, false);
    let own = Container {
        image: Some(envoy.image.clone()),
        args: Some(arguments(sidecar)),
        startup_probe: Some(Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/ready".to_owned()),
                port: IntOrString::Int(PAGES_PORT.into()),
                ..Default::default()
            }),
            ..containers::started()
        }),
        // The token is the agent's.
        volume_mounts: None,
        ..containers::proxy(settings, sidecar)
    };
    [agent, with_identity(own, true)]
}

/// Envoy's flags take their values as arguments of their own.
fn arguments(sidecar: &Sidecar) -> Vec<String> {
    let (concurrency, drain) = (CONCURRENCY.to_string(), DRAIN_S.to_string());
    let flags = [
        ("--service-node", "$(POD_UID)"),
        ("--log-level", log_level(&sidecar.log_level)),
        ("--concurrency", &concurrency),
        ("--drain-time-s", &drain),
        ("--drain-strategy", "immediate"),
        (containers::BOOTSTRAP, &sidecar.bootstrap),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag, value]);
    flags
        .chain(["--disable-hot-restart"])
        .map(str::to_owned)
        .collect()
}

/// The directory that both see.
pub(super) fn volume() -> Volume {
    Volume {
        name: VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn with_identity(mut container: Container, read_only: bool) -> Container {
    container.volume_mounts.get_or_insert_default().push(VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: IDENTITY_DIRECTORY.to_owned(),
        read_only: Some(read_only),
        ..Default::default()
    });
    container
}

/// The level in Envoy's word for it.
fn log_level(level: &str) -> &str {
    match level {
        "warn" => "warning",
        level => level,
    }
}

/// Envoy's bootstrap as one line of JSON, as [`bootstrap::render`] gives that of `weir-proxy`.
pub(super) fn render(
    settings: &Settings,
    envoy: &Envoy,
    namespace: &str,
    account: &str,
    probes: &ProbeListeners,
) -> String {
    let own = [
        control_plane(settings),
        bootstrap::cluster("admin", "STATIC", "127.0.0.1", ADMIN_PORT),
    ];
    let all: Vec<_> = own.into_iter().chain(bootstrap::clusters(probes)).collect();
    let listeners: Vec<_> = std::iter::once(pages())
        .chain(bootstrap::listeners(probes))
        .collect();
    let mut dynamic = bootstrap::dynamic_resources(envoy.protocol.api_type());
    for types in ["lds_config", "cds_config"] {
        dynamic[types] = json!({ "ads": {}, "resource_api_version": "V3" });
    }
    let mut message = json!({
        "node": { "cluster": format!("{account}.{namespace}") },
        "admin": { "address": bootstrap::address("127.0.0.1", ADMIN_PORT) },
        "dynamic_resources": dynamic,
        "static_resources": { "listeners": listeners, "clusters": all },
    });
    if let Some(mark) = envoy.socket_mark {
        // SOL_SOCKET and SO_MARK of Linux.
        let option = json!({ "level": 1, "name": 36, "int_value": mark, "state": "STATE_PREBIND" });
        message["cluster_manager"] = json!({ "upstream_bind_config": { "socket_options": [option] } });
    }
    bootstrap::escaped(&message)
}

/// The controller's cluster, with certificate and roots from the agent's files.
fn control_plane(settings: &Settings) -> Value {
    let secret = |name: &str| {
        json!({
            "name": name,
            "sds_config": {
                "path_config_source": { "path": format!("{IDENTITY_DIRECTORY}/{name}.json") },
                "resource_api_version": "V3",
            },
        })
    };
    let mut cluster = bootstrap::control_plane(settings);
    let context = &mut cluster["transport_socket"]["typed_config"]["common_tls_context"];
    context["tls_certificate_sds_secret_configs"] = json!([secret("workload-cert")]);
    context["combined_validation_context"]["validation_context_sds_secret_config"] = secret("trust-bundle");
    // A controller that went away without a word is noticed.
    cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["explicit_http_config"]
        ["http2_protocol_options"] =
        json!({ "connection_keepalive": { "interval": "30s", "timeout": "10s" } });
    cluster
}

/// Metrics and readiness, and no other page of the admin address.
fn pages() -> Value {
    let route = |path: &str, to: &str| json!({ "match": { "path": path }, "route": { "cluster": "admin", "prefix_rewrite": to } });
    let routes = [
        route(METRICS, METRICS),
        route("/metrics", METRICS),
        route("/ready", "/ready"),
    ];
    let filter = bootstrap::http(PAGES, PAGES, PAGES, &routes);
    json!({
        "name": PAGES,
        "address": bootstrap::any_address(PAGES_PORT),
        "default_filter_chain": { "name": "http", "filters": [filter] },
    })
}
