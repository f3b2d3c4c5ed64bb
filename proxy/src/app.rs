//! Wiring and the order of starting and stopping.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, Semaphore},
    time::sleep,
};
use weir_xds::ResourceType;

use crate::{
    accept::Bound,
    admin::{self, Logging, Role},
    config::Config,
    context::Context,
    control,
    drain::Drain,
    http::AccessLog,
    introspect::Sources,
    model::Listener,
    net::Dialer,
    outbound::Services,
    telemetry::{self, Telemetry},
    tls::Tls,
    upstream::{Connector, Upstreams},
    whole::Whole,
    xds::{self, Store},
};

/// Names of the two listeners that the control plane serves to every proxy.
const DYNAMIC: [&str; 2] = ["inbound", "outbound"];

/// Why the proxy stopped before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener's address cannot be bound.
    #[error("cannot listen on {address} for {what}: {source}; is another process using the port?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What for.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The admin, stats or health pages cannot be served.
    #[error(transparent)]
    Pages(#[from] admin::BindError),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(#[source] io::Error),
}

/// A proxy that can be run, in its own process or inside a test.
pub struct App {
    context: Arc<Context>,
    services: Arc<Services>,
    config: Config,
    control: Option<control::Control>,
    logging: Option<Logging>,
    started: Arc<AtomicBool>,
    stop: Arc<Notify>,
}

impl App {
    /// Puts the parts together. Nothing is bound, nothing connected yet. Needs a runtime.
    pub fn new(config: Config) -> Self {
        let (store, interest) = Store::new();
        config.bootstrap.publish(&store);
        let tls = Arc::new(Tls::new(store.clone()));
        let dialer = Dialer {
            mark: config.socket_mark,
        };
        let telemetry = Telemetry::new(config.workload.clone());
        let connector = Connector::new(dialer, &telemetry);
        let upstreams = Upstreams::new(store.clone(), tls.clone(), connector, telemetry.requests.clone());
        let context = Arc::new(Context {
            store,
            upstreams,
            tls,
            telemetry,
            access_log: AccessLog::default(),
            drain: Drain::default(),
            detect_timeout: config.detect_timeout,
            header_timeout: config.header_timeout,
            inbound_room: Arc::new(Semaphore::new(config.max_inbound_connections.get())),
            pod_ips: config.pod_ips.clone(),
            control_plane: config.bootstrap.ads.is_some(),
            stream: xds::Status::default(),
            own: parking_lot::RwLock::default(),
        });
        let control = control::Control::new(&config, &context, interest);
        measure(&context, control.as_ref());
        Self {
            control,
            services: Services::new(context.clone(), config.service_idle),
            context,
            config,
            logging: None,
            started: Arc::default(),
            stop: Arc::default(),
        }
    }

    /// Lets the admin page change the log level.
    #[must_use]
    pub fn with_logging(mut self, logging: Logging) -> Self {
        self.logging = Some(logging);
        self
    }

    /// What the proxy knows of every resource.
    pub fn store(&self) -> Store {
        self.context.store.clone()
    }

    /// How the stream from the control plane fares.
    pub fn stream(&self) -> xds::Status {
        self.context.stream.clone()
    }

    /// What is counted.
    pub fn telemetry(&self) -> Telemetry {
        self.context.telemetry.clone()
    }

    /// The shutdown, to be begun from elsewhere.
    pub fn drain(&self) -> Drain {
        self.context.drain.clone()
    }

    /// Binds the static listeners and begins to serve; those of the control plane follow when they arrive.
    ///
    /// # Errors
    /// When a static listener cannot be bound.
    pub fn start(&mut self) -> Result<(), AppError> {
        for listener in &self.config.bootstrap.listeners {
            if let Some(address) = listener.value.address {
                self.listen(&listener.name, &listener.value, address)?;
            }
        }
        if let Some(control) = self.control.take() {
            let followed = control.status().is_some();
            control.start();
            for name in self.awaited().iter().filter(|_| followed) {
                tokio::spawn(dynamic(self.context.clone(), self.services.clone(), name));
            }
            if followed && let Some(ads) = &self.config.bootstrap.ads {
                let whole = Whole::new(self.context.clone(), self.services.clone());
                tokio::spawn(whole.follow(ads.wildcard.clone()));
            }
        }
        tokio::spawn(self.services.clone().expire());
        self.started.store(true, Ordering::Release);
        Ok(())
    }

    /// Binds and serves the admin, stats and health pages. Before [`App::start`], so that probes are answered
    /// while the rest is on its way.
    ///
    /// # Errors
    /// When one of their addresses cannot be bound.
    pub fn serve_pages(&self) -> Result<(), AppError> {
        let telemetry = self.context.telemetry.clone();
        let sources = Sources {
            context: self.context.clone(),
            stream: self.control.as_ref().and_then(control::Control::status),
            identity: self.control.as_ref().and_then(control::Control::identity),
            started: self.started.clone(),
            stop: self.stop.clone(),
            logging: self.logging.clone(),
            metrics: Box::new(move || telemetry.render()),
            metrics_type: telemetry::CONTENT_TYPE,
        };
        let state = Arc::new(sources.state(&self.config, self.awaited(), self.takes_all_listeners()));
        for (role, address) in [
            (Role::Admin, self.config.bootstrap.admin),
            (Role::Stats, self.config.stats_address),
            (Role::Health, self.config.health_address),
        ] {
            if let Some(address) = address {
                let bound = role.serve(address, &state)?;
                self.context.own.write().push(bound);
                if role == Role::Admin {
                    self.tell_admin(bound);
                }
            }
        }
        Ok(())
    }

    /// Writes where the admin pages are, for who started the proxy with a port of 0.
    fn tell_admin(&self, bound: SocketAddr) {
        if let Some(path) = &self.config.admin_address_path
            && let Err(error) = std::fs::write(path, bound.to_string())
        {
            tracing::error!(?path, %error, "cannot write the admin address");
        }
    }

    /// Serves until a signal asks to stop, then drains. A second signal stops at once.
    ///
    /// # Errors
    /// When the proxy cannot start.
    pub async fn run(mut self) -> Result<(), AppError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
        self.serve_pages()?;
        self.start()?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = self.stop.notified() => {}
        }
        let (open, limit) = (self.context.drain.open(), self.config.drain_time);
        tracing::info!(open, ?limit, "draining");
        tokio::select! {
            () = self.context.drain.run(limit) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        self.context.access_log.flush();
        tracing::info!("stopped");
        Ok(())
    }

    /// The listeners that the control plane is asked for by name from the start.
    fn awaited(&self) -> &'static [&'static str] {
        match self.takes_all_listeners() {
            true => &[],
            false => &DYNAMIC,
        }
    }

    fn takes_all_listeners(&self) -> bool {
        let ads = self.config.bootstrap.ads.as_ref();
        ads.is_some_and(|ads| ads.wildcard.contains(&ResourceType::Listener))
    }

    fn listen(&self, name: &str, listener: &Listener, address: SocketAddr) -> Result<(), AppError> {
        listen(&self.context, &self.services, name, listener, address)
    }
}

/// Lets Prometheus see what other parts keep.
fn measure(context: &Context, control: Option<&control::Control>) {
    let (telemetry, upstreams) = (&context.telemetry, context.upstreams.clone());
    if let Some(control) = control {
        if let Some(status) = control.status() {
            telemetry.follow_config(status);
        }
        if let Some(identity) = control.identity() {
            telemetry.follow_certificate(identity);
        }
    }
    telemetry.follow_endpoints(move || {
        let all = upstreams.all().into_iter();
        all.map(|one| (one.name().to_owned(), one.now().endpoints.len()))
            .collect()
    });
}

/// Waits for a listener of the control plane and serves it.
async fn dynamic(context: Arc<Context>, services: Arc<Services>, name: &'static str) {
    let mut watched = context.store.watch::<Listener>(name);
    loop {
        if let Some(listener) = watched.current().ready()
            && let Some(address) = listener.address
        {
            match listen(&context, &services, name, listener, address) {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, "retrying");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        } else {
            watched.changed().await;
        }
    }
}

fn listen(
    context: &Arc<Context>,
    services: &Arc<Services>,
    name: &str,
    listener: &Listener,
    address: SocketAddr,
) -> Result<(), AppError> {
    let bound = Bound::open(context, services, name, listener, address);
    bound.map(Bound::keep).map_err(|source| AppError::Bind {
        address,
        what: format!("listener {name}"),
        source,
    })
}
