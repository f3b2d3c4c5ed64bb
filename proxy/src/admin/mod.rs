//! Pages about the proxy itself, for people, probes and Prometheus: the admin server on loopback, the stats
//! server that is scraped, and the health helper that answers the kubelet.
//!
//! What is shown comes through [`AdminState`], so that nothing here knows how connections are served.

mod dump;
mod health;
mod host;
mod info;
mod logging;
mod merge;
mod pages;
mod query;
mod server;
mod show;
mod stats;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;
use weir_xds::ResourceType;

pub use logging::{Logging, UnknownLevel};
pub use merge::Application;

use crate::{
    identity,
    net::{self, Dialer},
    xds::Dumped,
};

/// What a page answers.
type Page = Response<Full<Bytes>>;

/// A question to the rest of the proxy.
pub type Ask<T> = Box<dyn Fn() -> T + Send + Sync>;

/// What the pages need from the rest of the proxy.
pub struct AdminState {
    /// What the proxy still waits for before it serves; empty: ready.
    pub waiting: Ask<Vec<String>>,
    /// Who the proxy is towards the control plane: id and cluster.
    pub node: (String, String),
    /// The bootstrap as JSON, private keys left out.
    pub bootstrap: Ask<serde_json::Value>,
    /// The flags that Envoy has too, under its names for them.
    pub options: serde_json::Value,
    /// When the proxy started.
    pub started: Instant,
    /// Whether the proxy was told to be unready, at /healthcheck/fail.
    pub failing: AtomicBool,
    /// Whether the shutdown has begun.
    pub draining: Ask<bool>,
    /// Listeners that are bound, by name.
    pub listeners: Ask<Vec<(String, SocketAddr)>>,
    /// The server's version of the last response of a type that was taken whole; empty when there is none.
    pub version: Box<dyn Fn(ResourceType) -> String + Send + Sync>,
    /// Every resource.
    pub dump: Ask<Vec<Dumped>>,
    /// Certificates and roots in use.
    pub certificates: Ask<Vec<Chain>>,
    /// How the proxy's own certificate fares; `None` when it is static.
    pub identity: Ask<Option<identity::Status>>,
    /// Clusters in use.
    pub clusters: Ask<Vec<ClusterView>>,
    /// Metrics in the format of `metrics_type`.
    pub metrics: Ask<String>,
    /// Content type of `metrics`.
    pub metrics_type: &'static str,
    /// Where the application shows metrics to be given with the proxy's; `None`: nowhere.
    pub application: Option<Application>,
    /// The log level; `None` when this process does not log.
    pub logging: Option<Logging>,
    /// Begins to drain the inbound listeners; the process goes on.
    pub drain: Ask<()>,
    /// Begins to drain everything; the process ends.
    pub stop: Ask<()>,
    /// Whether the proxy itself listens at this address.
    pub own: Box<dyn Fn(SocketAddr) -> bool + Send + Sync>,
    /// How applications are dialled for the health helper.
    pub dialer: Dialer,
}

/// A certificate chain, or roots.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The secret's name.
    pub name: String,
    /// Whether these are roots to trust rather than a chain to show.
    pub roots: bool,
    /// Leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// A cluster in use.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// Whether it came from the control plane.
    pub added_via_api: bool,
    /// Why it cannot be used now, if so.
    pub trouble: Option<&'static str>,
    /// Usable endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint of a cluster.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Where it is.
    pub address: SocketAddr,
    /// The SPIFFE URI that it must prove.
    pub principal: Option<String>,
    /// Whether it is spoken to with TLS.
    pub tls: bool,
    /// Its relative weight.
    pub weight: u32,
    /// Requests and connections on it now.
    pub in_flight: u32,
    /// Namespace and name of the pod behind it, where known.
    pub pod: Option<(String, String)>,
}

/// Which pages are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// All pages, to loopback only.
    Admin,
    /// Metrics.
    Stats,
    /// Answers to probes.
    Health,
}

/// Why a page server could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {what}: {reason}; {}", self.hint())]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What for.
    what: &'static str,
    /// What sets the address.
    setting: &'static str,
    /// The system's answer.
    reason: io::Error,
}

impl BindError {
    fn hint(&self) -> String {
        let setting = self.setting;
        match self.reason.kind() {
            io::ErrorKind::AddrInUse => {
                format!("another process uses the port: stop it, or give another address with {setting}")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("this host has no such address: give one that it has with {setting}")
            }
            _ => format!("give another address with {setting}"),
        }
    }
}

impl Role {
    /// What it is, and what sets its address.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Admin => ("the admin pages", "admin.address in the bootstrap"),
            Self::Stats => ("metrics", "--stats-address"),
            Self::Health => ("probes", "--health-address"),
        }
    }

    /// Binds its address and serves until the runtime ends. Gives the address bound.
    ///
    /// An IPv6 wildcard takes IPv4 too, and becomes the IPv4 wildcard on a host without IPv6.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn serve(self, address: SocketAddr, state: &Arc<AdminState>) -> Result<SocketAddr, BindError> {
        let (what, setting) = self.words();
        let failed = |reason| BindError {
            address,
            what,
            setting,
            reason,
        };
        let socket = bind(address).map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?;
        tracing::info!(address = %bound, "serving {what}");
        tokio::spawn(server::serve(socket, self, state.clone()));
        Ok(bound)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match net::bind(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            net::bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

/// The kernel is built or started without IPv6.
fn no_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT has no `io::ErrorKind`.
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Text for people.
fn text(status: StatusCode, text: impl Into<String>) -> Page {
    let mut text = text.into();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    page(status, "text/plain; charset=utf-8", text)
}

fn json(value: &serde_json::Value) -> Page {
    page(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn page(status: StatusCode, content_type: &'static str, body: String) -> Page {
    let mut page = Response::new(Full::new(Bytes::from(body)));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    page
}

/// Whether the proxy serves, and what it waits for if not.
fn ready(state: &AdminState) -> Page {
    let waiting = ready_reasons(state);
    if waiting.is_empty() {
        text(StatusCode::OK, "LIVE")
    } else {
        text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("NOT READY\n{}", waiting.join("\n")),
        )
    }
}

/// Why the proxy is not ready; empty: it is.
fn ready_reasons(state: &AdminState) -> Vec<String> {
    let mut waiting = (state.waiting)();
    if state.failing.load(Ordering::Relaxed) {
        waiting.push("told to be unready: POST /healthcheck/ok ends it".to_owned());
    }
    waiting
}

fn metrics(state: &AdminState) -> Page {
    page(StatusCode::OK, state.metrics_type, (state.metrics)())
}

fn not_allowed(allow: &'static str, why: &str) -> Page {
    let mut page = text(StatusCode::METHOD_NOT_ALLOWED, why);
    page.headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    page
}

/// Seconds since the Unix epoch; 0 for what was before.
fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
