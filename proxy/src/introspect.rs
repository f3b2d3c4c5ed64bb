//! What the admin pages are told of the proxy: the other parts' state in the words of [`AdminState`].

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use weir_xds::ResourceType;

use crate::{
    admin::{AdminState, Chain, ClusterView, EndpointView, Logging},
    bootstrap::WORKLOAD_CERTIFICATE,
    config::{Config, LogLevel, Mode},
    context::Context,
    drain::Stage,
    identity,
    model::{Listener, Secret, Workload},
    net::Dialer,
    upstream::{Endpoint, Readiness, Upstream},
    xds::{self, Watched},
};

/// Where the pages get what they show.
pub struct Sources {
    /// What every connection has at hand.
    pub context: Arc<Context>,
    /// How the configuration stream fares; `None` without a control plane.
    pub stream: Option<xds::Status>,
    /// How the proxy's own certificate fares; `None` when it is static.
    pub identity: Option<watch::Receiver<identity::Status>>,
    /// Whether the static listeners are bound.
    pub started: Arc<AtomicBool>,
    /// Rung to end the process.
    pub stop: Arc<Notify>,
    /// The log level.
    pub logging: Option<Logging>,
    /// Renders the metrics.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Content type of the metrics.
    pub metrics_type: &'static str,
}

impl Sources {
    /// The pages' view. `dynamic` names the listeners without which the proxy does not serve; `all`: those that the
    /// control plane has, whatever their names.
    pub fn state(self, config: &Config, dynamic: &[&'static str], all: bool) -> AdminState {
        let Self { context, stop, .. } = self;
        let waiting = Waiting {
            context: context.clone(),
            started: self.started,
            identity: self.identity.clone(),
            listeners: match &self.stream {
                Some(_) => dynamic
                    .iter()
                    .map(|name| (*name, context.store.watch(name)))
                    .collect(),
                None => Vec::new(),
            },
            all,
            stream: self.stream.clone(),
        };
        let (store, secrets, clusters) = (context.store.clone(), context.clone(), context.clone());
        let (drain, identity) = (context.drain.clone(), self.identity);
        let (listeners, stage) = (context.clone(), context.drain.clone());
        let (bootstrap, stream) = (config.bootstrap.source.clone(), self.stream);
        let fixed = config
            .bootstrap
            .clusters
            .iter()
            .map(|cluster| cluster.name.clone());
        let fixed: HashSet<_> = fixed.collect();
        let node = &config.bootstrap.node;
        AdminState {
            bootstrap: Box::new(move || xds::message_to_json(&bootstrap)),
            options: options(config),
            started: Instant::now(),
            failing: AtomicBool::new(false),
            draining: Box::new(move || stage.stage() != Stage::Running),
            listeners: Box::new(move || bound(&listeners)),
            version: Box::new(move |kind| {
                stream
                    .as_ref()
                    .map_or_else(String::new, |stream| stream.of(kind).version)
            }),
            waiting: Box::new(move || waiting.list()),
            node: (node.id.clone(), node.cluster.clone()),
            dump: Box::new(move || store.dump()),
            certificates: Box::new(move || chains(&secrets)),
            identity: Box::new(move || identity.as_ref().map(|status| status.borrow().clone())),
            clusters: Box::new(move || {
                let all = clusters.upstreams.all();
                all.iter().map(|one| cluster(one, &fixed)).collect()
            }),
            metrics: self.metrics,
            metrics_type: self.metrics_type,
            application: config.merge_metrics.clone(),
            logging: self.logging,
            drain: Box::new(move || drain.begin()),
            stop: Box::new(move || stop.notify_one()),
            own: Box::new(move |address| context.is_own(address)),
            dialer: Dialer {
                mark: config.socket_mark,
            },
        }
    }
}

/// What has to be there before the proxy serves.
struct Waiting {
    context: Arc<Context>,
    started: Arc<AtomicBool>,
    stream: Option<xds::Status>,
    identity: Option<watch::Receiver<identity::Status>>,
    listeners: Vec<(&'static str, Watched<Listener>)>,
    /// Whether every listener of the control plane is waited for.
    all: bool,
}

impl Waiting {
    fn list(&self) -> Vec<String> {
        let mut list = Vec::new();
        if self.context.drain.stage() != Stage::Running {
            list.push("draining: inbound connections end".to_owned());
        }
        if !self.started.load(Ordering::Acquire) {
            list.push("static listeners: not bound yet".to_owned());
        }
        if let Some(identity) = &self.identity {
            let identity = identity.borrow();
            if identity.current.is_none() {
                list.push(match &identity.last_error {
                    Some(error) => format!("certificate: {error}"),
                    None => "certificate: not obtained yet".to_owned(),
                });
            }
        }
        let missing: Vec<_> = self
            .listeners
            .iter()
            .filter_map(|one| self.listener(one))
            .chain(self.whole())
            .collect();
        if !missing.is_empty() {
            list.extend(self.stream.as_ref().and_then(disconnected));
            list.extend(missing);
        }
        list
    }

    fn listener(&self, (name, watched): &(&'static str, Watched<Listener>)) -> Option<String> {
        let state = watched.current();
        let why = match state.ready().map(|listener| listener.address) {
            Some(Some(address)) if self.bound(address) => return None,
            Some(Some(address)) => format!("received, but {address} is not bound yet"),
            Some(None) => "received without an address".to_owned(),
            None if matches!(state, xds::State::Absent) => {
                "the control plane has none for this proxy; is the pod known to it?".to_owned()
            }
            None => "not received yet".to_owned(),
        };
        Some(format!("listener {name}: {why}"))
    }

    /// What is missing where everything is asked for.
    fn whole(&self) -> Vec<String> {
        let Some(stream) = self.stream.as_ref().filter(|_| self.all) else {
            return Vec::new();
        };
        let listeners = stream.of(ResourceType::Listener);
        if listeners.acks + listeners.nacks == 0 {
            return vec!["listeners: not received yet".to_owned()];
        }
        let served = self.context.store.served::<Listener>().into_iter();
        let unbound = served.filter_map(|(name, listener)| {
            let address = listener.address.filter(|address| !self.bound(*address))?;
            Some(format!(
                "listener {name}: received, but {address} is not bound yet"
            ))
        });
        unbound.collect()
    }

    fn bound(&self, address: SocketAddr) -> bool {
        self.context
            .own
            .read()
            .iter()
            .any(|own| own.port() == address.port())
    }
}

fn disconnected(stream: &xds::Status) -> Option<String> {
    if stream.connected() {
        return None;
    }
    Some(match stream.last_error() {
        Some(error) => format!("xds: {error}"),
        None => "xds: not connected yet".to_owned(),
    })
}

fn chains(context: &Context) -> Vec<Chain> {
    let secrets = context.store.dump().into_iter().map(|dumped| dumped.name);
    let mut chains: Vec<_> = secrets
        .filter_map(|name| {
            let secret = context.store.peek::<Secret>(&name)?;
            let (roots, certificates) = match &**secret.ready()? {
                Secret::Certificate(certificate) => (false, certificate.chain.clone()),
                Secret::TrustBundle(bundle) => (true, bundle.roots.clone()),
            };
            Some(Chain {
                name: name.to_string(),
                roots,
                certificates,
            })
        })
        .collect();
    // The proxy's own first.
    chains.sort_by_key(|chain| (chain.name != WORKLOAD_CERTIFICATE, chain.roots));
    chains.dedup_by(|a, b| a.name == b.name);
    chains
}

/// Listeners that are bound, with their names.
fn bound(context: &Context) -> Vec<(String, SocketAddr)> {
    let names = context.store.dump().into_iter();
    let names = names.filter(|dumped| dumped.kind == ResourceType::Listener);
    names
        .filter_map(|dumped| {
            let listener = context.store.peek::<Listener>(&dumped.name)?;
            let address = listener.ready()?.address?;
            let own = context.own.read();
            let bound = own.iter().any(|own| own.port() == address.port());
            bound.then(|| (dumped.name.to_string(), address))
        })
        .collect()
}

/// The flags that Envoy has too, under its names.
fn options(config: &Config) -> Value {
    let node = &config.bootstrap.node;
    let zone = node.locality.as_ref().map_or("", |locality| &locality.zone);
    json!({
        "concurrency": config.concurrency,
        "log_level": match config.log_level {
            LogLevel::Off => "off",
            LogLevel::Error => "error",
            LogLevel::Warn => "warning",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        },
        "service_cluster": node.cluster,
        "service_node": node.id,
        "service_zone": zone,
        "drain_time": format!("{}s", config.drain_time.as_secs()),
        "mode": match config.mode {
            Mode::Validate => "Validate",
            _ => "Serve",
        },
        "disable_hot_restart": true,
        "restart_epoch": 0,
    })
}

fn cluster(upstream: &Upstream, fixed: &HashSet<String>) -> ClusterView {
    let trouble = match *upstream.readiness().borrow() {
        Readiness::Pending => Some("pending"),
        Readiness::Absent => Some("absent"),
        Readiness::Ready => None,
    };
    ClusterView {
        name: upstream.name().to_owned(),
        added_via_api: !fixed.contains(upstream.name()),
        trouble,
        endpoints: upstream.now().endpoints.iter().map(|one| endpoint(one)).collect(),
    }
}

fn endpoint(endpoint: &Endpoint) -> EndpointView {
    let workload = endpoint.workload();
    EndpointView {
        address: endpoint.address(),
        principal: endpoint.principal().map(|principal| principal.to_string()),
        tls: endpoint.tls().is_some(),
        weight: endpoint.weight(),
        in_flight: endpoint.in_flight(),
        pod: (**workload != Workload::default()).then(|| (workload.namespace.clone(), workload.pod.clone())),
    }
}
