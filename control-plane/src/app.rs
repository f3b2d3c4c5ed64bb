//! Puts the controller together and runs it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;
use tracing::{error, info, warn};
use weir_xds::{
    envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer,
};

use crate::{
    admin::Admin,
    catalog::{self, Settings, Snapshot},
    certificates::{self, BuiltIn, Issuer, Serving, Signing, join_token},
    config::Args,
    endpoints::{Files, Provider as _},
    xds::{self, Accept, Discovery, Hub},
};

/// How long streams get to end before the process does.
const GRACE: Duration = Duration::from_secs(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A proxy needs one stream and now and then a signature.
const STREAMS_PER_CONNECTION: u32 = 16;
/// The largest request for a certificate, in bytes. Whoever sends it has shown nothing yet.
const SIGNING_REQUEST: usize = 64 * 1024;
const SHORT_VALIDITY: Duration = Duration::from_secs(10 * 60);

/// Runs the controller until told to stop.
///
/// # Errors
/// When the manifests cannot be watched, an address cannot be bound, or the state directory cannot be used.
pub async fn run(args: &Args, stop: CancellationToken) -> anyhow::Result<()> {
    let provider = Files::start(&args.manifests)?;
    let settings = Settings {
        mesh_name: args.mesh_name.clone(),
        trust_domain: args.trust_domain.clone(),
        namespace: args.namespace.clone(),
    };
    let mut registry = Registry::default();
    let metrics = catalog::Metrics::register(&mut registry);
    let snapshots = catalog::follow(provider.objects(), settings, metrics);
    let app = App::start(args, snapshots, registry, stop.clone()).await?;
    app.finished(stop).await;
    Ok(())
}

/// A controller at work.
pub struct App {
    /// Where sidecars connect.
    pub xds_address: SocketAddr,
    /// Where health and metrics are.
    pub health_address: SocketAddr,
    server: JoinHandle<()>,
    tasks: TaskTracker,
}

impl App {
    /// Starts serving the snapshots of a catalog. Ready once the first snapshot with a generation above 0 is
    /// there; `registry` may hold metrics of the catalog already.
    ///
    /// # Errors
    /// When an address cannot be bound, or the state directory cannot be used.
    pub async fn start(
        args: &Args,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        mut registry: Registry,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let issuer: Arc<dyn Issuer> = Arc::new(BuiltIn::open(&args.state_dir)?);
        let join_key = join_token::load_or_create_key(&args.state_dir)?;
        let serving = Arc::new(Serving::new(issuer.clone(), &args.namespace).await?);
        let metrics = xds::Metrics::register(&mut registry);
        let signing = Signing::new(
            issuer.clone(),
            Arc::new(join_token::JoinTokens::new(join_key)),
            snapshots.clone(),
            certificates::Metrics::register(&mut registry),
        );
        let first = snapshots.borrow().clone();
        let hub = Arc::new(Hub::new(first, issuer.trust().borrow().clone(), metrics.clone()));
        let admin = Arc::new(Admin {
            registry: Mutex::new(registry),
            hub: hub.clone(),
            ready: AtomicBool::new(false),
        });

        let xds_listener = bind(args.xds_address, "--xds-address").await?;
        let health_listener = bind(args.health_address, "--health-address").await?;
        let (xds_address, health_address) = (xds_listener.local_addr()?, health_listener.local_addr()?);
        info!(%xds_address, %health_address, "serving");

        let tasks = TaskTracker::new();
        tasks.spawn(admin.clone().serve(health_listener, stop.clone()));
        let rotation = stop.clone();
        let renewed = serving.clone();
        tasks.spawn(async move { renewed.keep_fresh(rotation).await });
        tasks.spawn(follow(
            hub.clone(),
            admin,
            snapshots,
            issuer.trust(),
            stop.clone(),
        ));
        tasks.close();

        let incoming = Accept::incoming(xds_listener, serving, metrics, stop.clone());
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .add_service(AggregatedDiscoveryServiceServer::new(Discovery::new(
                hub,
                stop.clone(),
            )))
            .add_service(
                IstioCertificateServiceServer::new(signing).max_decoding_message_size(SIGNING_REQUEST),
            );
        let server = tokio::spawn(async move {
            let ended = server
                .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
                .await;
            if let Err(error) = ended {
                error!(%error, "the xDS server failed");
            }
        });
        Ok(Self {
            xds_address,
            health_address,
            server,
            tasks,
        })
    }

    /// Waits until the controller was told to stop and has: streams are ended, so that proxies connect elsewhere.
    pub async fn finished(self, stop: CancellationToken) {
        stop.cancelled().await;
        let Self {
            mut server, tasks, ..
        } = self;
        if timeout(GRACE, &mut server).await.is_err() {
            server.abort();
        }
        if timeout(GRACE / 2, tasks.wait()).await.is_err() {
            warn!("some tasks did not end in time");
        }
    }
}

/// Carries snapshots and roots to the hub.
async fn follow(
    hub: Arc<Hub>,
    admin: Arc<Admin>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut trust: watch::Receiver<Arc<certificates::TrustBundle>>,
    stop: CancellationToken,
) {
    let mut validity = None;
    snapshots.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let snapshot = snapshots.borrow_and_update().clone();
                admin.ready.fetch_or(snapshot.generation > 0, Ordering::AcqRel);
                let now = snapshot.mesh.certificate_validity;
                if validity.replace(now) != Some(now) && now < SHORT_VALIDITY {
                    warn!(
                        validity_s = now.as_secs(),
                        "MeshConfig certificate.serviceCertValidityDuration is under 10 minutes: an outage of the \
                         controller longer than half of it stops the mesh"
                    );
                }
                hub.publish(snapshot);
            }
            changed = trust.changed() => {
                if changed.is_err() {
                    return;
                }
                let roots = trust.borrow_and_update().clone();
                info!(roots = roots.roots().len(), "the trust bundle changed");
                hub.publish_trust(roots);
            }
        }
    }
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another address with {flag}"))
}
