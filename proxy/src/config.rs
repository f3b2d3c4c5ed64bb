//! Flags and environment → [`Config`], checked before any port is bound.

mod envoy;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::{Parser, ValueEnum};

use envoy::EnvoyFlags;

use crate::{
    admin::Application,
    bootstrap::{Bootstrap, BootstrapError, Overrides},
    model::Workload,
};

/// The Weir sidecar proxy.
///
/// Reads an Envoy-style bootstrap (a subset, YAML or JSON), fetches the rest of its configuration from the control
/// plane that the bootstrap names, and carries the pod's connections with mutual TLS.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir-proxy", version)]
pub struct Args {
    /// Bootstrap file, YAML or JSON.
    #[arg(
        short = 'c',
        long,
        value_name = "FILE",
        required_unless_present_any = ["config_yaml", "hot_restart_version"]
    )]
    pub config_path: Option<PathBuf>,
    /// Bootstrap given in place, YAML or JSON; merged over the file when both are given.
    #[arg(long, value_name = "YAML")]
    pub config_yaml: Option<String>,
    /// Name of this proxy towards the control plane (the pod's UID); overrides the bootstrap's node.id.
    #[arg(long, value_name = "ID", env = "SERVICE_NODE")]
    pub service_node: Option<String>,
    /// Name of the workload; overrides the bootstrap's node.cluster.
    #[arg(long, value_name = "NAME")]
    pub service_cluster: Option<String>,
    /// Zone that the proxy is in; overrides the bootstrap's node.locality.zone.
    #[arg(long, value_name = "ZONE")]
    pub service_zone: Option<String>,
    /// Fields of the bootstrap that this proxy does not know are told and left out, instead of refused.
    #[arg(long, alias = "allow-unknown-fields")]
    pub allow_unknown_static_fields: bool,
    /// File to write the admin address to, once it is bound.
    #[arg(long, value_name = "FILE")]
    pub admin_address_path: Option<PathBuf>,
    /// Say which hot restart there is: "disabled", and exit.
    #[arg(long, hide = true)]
    pub hot_restart_version: bool,
    /// Worker threads; by default as many as the CPU quota allows.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,
    /// Lowest level logged; can be changed later at the admin address, /logging?level=...
    #[arg(
        short = 'l',
        long,
        value_name = "LEVEL",
        default_value = "info",
        ignore_case = true
    )]
    pub log_level: LogLevel,
    /// How log lines look: "text" or "json". A pattern as Envoy takes them stands for "text".
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = log_format)]
    pub log_format: LogFormat,
    /// "serve" runs the proxy; "validate" only reads the bootstrap, reports, and exits 0 when it is good;
    /// "identity" carries no connections, but gets the certificate for an Envoy beside it.
    #[arg(long, default_value = "serve")]
    pub mode: Mode,
    /// With --mode identity: where to write workload-cert.json and trust-bundle.json, which Envoy reads by SDS.
    #[arg(long, value_name = "DIR", default_value = "/var/run/weir")]
    pub identity_dir: PathBuf,
    /// After SIGTERM, open connections get this many seconds to finish.
    #[arg(long, value_name = "SECONDS", default_value_t = 45)]
    pub drain_time_s: u64,
    /// Where Prometheus scrapes (/metrics, /stats/prometheus); "off": nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15010")]
    pub stats_address: OptionalAddress,
    /// Where TCP probes rewritten by the injector are answered (/osm-healthcheck, /ready); "off": nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15904")]
    pub health_address: OptionalAddress,
    /// Inbound connections at a time; more are reset.
    #[arg(long, value_name = "N", default_value = "10000")]
    pub max_inbound_connections: NonZeroUsize,
    /// A service is forgotten when the pod had no connection to it for so long; it is asked for again when needed.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub service_idle_s: NonZeroU32,
    /// A client outside the mesh has so long for the head of each request, the pause before it included.
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub header_timeout_s: NonZeroU32,
    /// Where the application shows metrics of its own, on loopback: they are given to Prometheus with the proxy's.
    #[arg(long, value_name = "PORT/PATH")]
    pub merge_metrics: Option<Application>,
    /// How long a silent client on a port of undeclared protocol is waited for, unless its listener says.
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pub detect_timeout_ms: u64,
    /// Mark (SO_MARK) on every socket opened towards servers, applications and the control plane, so that
    /// weir-init can tell the proxy's own connections where there is only one uid.
    #[arg(long, value_name = "N", env = "WEIR_SOCKET_MARK")]
    pub socket_mark: Option<u32>,

    #[command(flatten)]
    pod: Pod,
    #[command(flatten)]
    envoy: EnvoyFlags,
}

/// What the injector says of the pod, by environment.
#[derive(Clone, Debug, Default, clap::Args)]
struct Pod {
    #[arg(long, env = "POD_NAME", hide = true)]
    pod_name: Option<String>,
    #[arg(long, env = "POD_NAMESPACE", hide = true)]
    pod_namespace: Option<String>,
    #[arg(long, env = "POD_UID", hide = true)]
    pod_uid: Option<String>,
    #[arg(long, env = "POD_IP", hide = true)]
    pod_ip: Option<String>,
    #[arg(long, env = "POD_IPS", hide = true)]
    pod_ips: Option<String>,
    #[arg(long, env = "SERVICE_ACCOUNT", hide = true)]
    service_account: Option<String>,
    #[arg(long, env = "WORKLOAD_KIND", hide = true)]
    workload_kind: Option<String>,
    #[arg(long, env = "WORKLOAD_NAME", hide = true)]
    workload_name: Option<String>,
}

/// Lowest level logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What needs someone's attention.
    #[value(alias = "critical")]
    Error,
    /// What may.
    #[value(alias = "warning")]
    Warn,
    /// Starts, stops, new configuration.
    Info,
    /// Each connection.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for tracing::level_filters::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        pattern if pattern.contains('%') => Ok(LogFormat::Text),
        _ => Err("expected text or json".to_owned()),
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Run.
    Serve,
    /// Read the bootstrap, report, exit.
    Validate,
    /// Get certificates, for another proxy.
    Identity,
}

/// An address, or nothing when the flag says `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalAddress(pub Option<SocketAddr>);

impl std::str::FromStr for OptionalAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| {
            "expected an IP address and port such as 0.0.0.0:15010 or [::]:15010, or \"off\"".to_owned()
        })?;
        Ok(Self(Some(address)))
    }
}

/// Everything the proxy needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to do.
    pub mode: Mode,
    /// Where another proxy reads its certificate, in [`Mode::Identity`].
    pub identity_dir: PathBuf,
    /// Worker threads; `None`: as many as the CPU quota allows.
    pub concurrency: Option<NonZeroUsize>,
    /// Lowest level logged.
    pub log_level: LogLevel,
    /// How log lines look.
    pub log_format: LogFormat,
    /// How long open connections may go on after SIGTERM.
    pub drain_time: Duration,
    /// Where Prometheus scrapes.
    pub stats_address: Option<SocketAddr>,
    /// Where rewritten TCP probes are answered.
    pub health_address: Option<SocketAddr>,
    /// Inbound connections at a time.
    pub max_inbound_connections: NonZeroUsize,
    /// How long a service is followed after its last connection.
    pub service_idle: Duration,
    /// How long a client outside the mesh has for the head of a request.
    pub header_timeout: Duration,
    /// Where the application shows metrics of its own.
    pub merge_metrics: Option<Application>,
    /// How long a silent client is waited for when its listener does not say.
    pub detect_timeout: Duration,
    /// `SO_MARK` of sockets that the proxy opens.
    pub socket_mark: Option<u32>,
    /// Where to write the admin address.
    pub admin_address_path: Option<PathBuf>,
    /// The pod's addresses, the primary first; empty when not told.
    pub pod_ips: Vec<IpAddr>,
    /// The pod's ServiceAccount; empty when not told.
    pub service_account: String,
    /// This pod, as metric labels name it.
    pub workload: Workload,
    /// Node, admin address, static resources, control plane.
    pub bootstrap: Bootstrap,
}

/// Why the proxy cannot start as asked.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The bootstrap is not usable.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A flag of Envoy that cannot be followed, nor left out.
    #[error("{flag}: {reason}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// There is nobody to get a certificate from.
    #[error(
        "--mode identity: the bootstrap must name a control plane (dynamic_resources.ads_config) and a token \
         (node.metadata.WEIR_TOKEN_PATH)"
    )]
    NoSigner,
    /// A pod address in the environment is not one.
    #[error(
        "{variable} holds {value:?}, which is not an IP address: set it from the pod's status.podIP (or status.podIPs)"
    )]
    PodIp {
        /// The environment variable.
        variable: &'static str,
        /// What it holds.
        value: String,
    },
}

impl Args {
    /// Reads the bootstrap and checks everything.
    ///
    /// # Errors
    /// When something is not usable; the text says what, where, and what to do.
    pub fn load(self) -> Result<Config, ConfigError> {
        self.envoy.check()?;
        let pod = self.pod;
        let overrides = Overrides {
            node_id: self.service_node.filter(|id| !id.is_empty()),
            node_cluster: self.service_cluster.filter(|name| !name.is_empty()),
            zone: self.service_zone.filter(|zone| !zone.is_empty()),
            metadata: pod.metadata(),
            allow_unknown: self.allow_unknown_static_fields,
        };
        let mut bootstrap = Bootstrap::load(
            self.config_path.as_deref(),
            self.config_yaml.as_deref(),
            overrides,
        )?;
        bootstrap.ignored.extend(self.envoy.without_effect());
        if self.mode == Mode::Identity && (bootstrap.ads.is_none() || bootstrap.token_path.is_none()) {
            return Err(ConfigError::NoSigner);
        }
        Ok(Config {
            mode: self.mode,
            identity_dir: self.identity_dir,
            concurrency: self.concurrency,
            log_level: self.log_level,
            log_format: self.log_format,
            drain_time: Duration::from_secs(self.drain_time_s),
            stats_address: self.stats_address.0,
            health_address: self.health_address.0,
            max_inbound_connections: self.max_inbound_connections,
            service_idle: Duration::from_secs(self.service_idle_s.get().into()),
            header_timeout: Duration::from_secs(self.header_timeout_s.get().into()),
            merge_metrics: self.merge_metrics,
            detect_timeout: Duration::from_millis(self.detect_timeout_ms),
            socket_mark: self.socket_mark,
            admin_address_path: self.admin_address_path,
            pod_ips: pod.ips()?,
            workload: pod.workload(),
            service_account: pod.service_account.unwrap_or_default(),
            bootstrap,
        })
    }
}

impl Pod {
    /// Node metadata under the names of the environment.
    fn metadata(&self) -> Vec<(String, String)> {
        [
            ("POD_NAME", &self.pod_name),
            ("POD_NAMESPACE", &self.pod_namespace),
            ("POD_UID", &self.pod_uid),
            ("POD_IP", &self.pod_ip),
            ("POD_IPS", &self.pod_ips),
            ("SERVICE_ACCOUNT", &self.service_account),
            ("WORKLOAD_KIND", &self.workload_kind),
            ("WORKLOAD_NAME", &self.workload_name),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone().filter(|value| !value.is_empty())?)))
        .collect()
    }

    fn ips(&self) -> Result<Vec<IpAddr>, ConfigError> {
        let mut ips = Vec::new();
        for (variable, list) in [("POD_IP", &self.pod_ip), ("POD_IPS", &self.pod_ips)] {
            let list = list.as_deref().unwrap_or_default().split(',').map(str::trim);
            for text in list.filter(|text| !text.is_empty()) {
                let ip = text.parse().map_err(|_| ConfigError::PodIp {
                    variable,
                    value: text.to_owned(),
                })?;
                if !ips.contains(&ip) {
                    ips.push(ip);
                }
            }
        }
        Ok(ips)
    }

    fn workload(&self) -> Workload {
        let unknown = Workload::default();
        let or = |value: &Option<String>, default: String| {
            value.clone().filter(|value| !value.is_empty()).unwrap_or(default)
        };
        Workload {
            namespace: or(&self.pod_namespace, unknown.namespace),
            kind: or(&self.workload_kind, unknown.kind),
            name: or(&self.workload_name, unknown.name),
            pod: or(&self.pod_name, unknown.pod),
        }
    }
}
