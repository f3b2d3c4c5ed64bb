//! Puts the controller together and runs it.

mod cluster;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use weir_xds::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;

use crate::{
    admin::Admin,
    catalog::{self, Settings, Snapshot},
    certificates::{self, BuiltIn, CertificateError, Issuer, Serving, Signing, Verifier, join_token},
    config::Args,
    endpoints::{Files, Provider as _},
    logging::Logging,
    xds::{self, Discovery, Door, Hub, Services},
};

/// How long streams get to end before the process does.
const GRACE: Duration = Duration::from_secs(1);
/// Connections that wait to be accepted: thousands of proxies may lose their controller together.
const BACKLOG: u32 = 4096;
/// The largest request for a certificate, in bytes. Whoever sends it has shown nothing yet.
const SIGNING_REQUEST: usize = 64 * 1024;
const SHORT_VALIDITY: Duration = Duration::from_secs(10 * 60);

/// Runs the controller until told to stop: on a cluster, or on directories of manifests.
///
/// # Errors
/// When the objects cannot be watched, an address cannot be bound, or the root cannot be used.
pub async fn run(args: &Args, logging: &Logging, stop: CancellationToken) -> anyhow::Result<()> {
    match &args.state_dir {
        Some(state_dir) => on_files(args, state_dir, stop).await,
        None => cluster::run(args, logging, stop).await,
    }
}

async fn on_files(args: &Args, state_dir: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let provider = Files::start(&args.manifests)?;
    let admin = start_admin(args, &stop).await?;
    let metrics = admin.register(catalog::Metrics::register);
    let snapshots = catalog::follow(provider.objects(), settings(args), metrics);
    let authority = Authority::in_directory(state_dir)?;
    let app = App::start(args, admin, authority, snapshots, stop.clone()).await?;
    app.finished(stop).await;
    Ok(())
}

/// Serves health and metrics.
///
/// # Errors
/// When the address cannot be bound.
pub async fn start_admin(args: &Args, stop: &CancellationToken) -> anyhow::Result<Arc<Admin>> {
    let address = args.health_address;
    let admin = Admin::start(address, Registry::default(), stop.clone()).await;
    admin.with_context(|| cannot_listen(address, "--health-address"))
}

fn settings(args: &Args) -> Settings {
    Settings {
        mesh_name: args.mesh_name.clone(),
        trust_domain: args.trust_domain.clone(),
        namespace: args.namespace.clone(),
    }
}

/// Who signs certificates, and who says whose a token is.
pub struct Authority {
    /// Signs.
    pub issuer: Arc<dyn Issuer>,
    /// Knows tokens.
    pub verifier: Arc<dyn Verifier>,
}

impl Authority {
    /// The root and the key of join tokens of a directory; what is missing there is made.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn in_directory(state_dir: &Path) -> Result<Self, CertificateError> {
        let issuer = Arc::new(BuiltIn::open(state_dir)?);
        let join_key = join_token::load_or_create_key(state_dir)?;
        Ok(Self {
            issuer,
            verifier: Arc::new(join_token::JoinTokens::new(join_key)),
        })
    }
}

/// A controller at work.
pub struct App {
    /// Where sidecars connect.
    pub xds_address: SocketAddr,
    /// The controller's certificate, for further listeners.
    pub serving: Arc<Serving>,
    server: JoinHandle<()>,
    tasks: TaskTracker,
}

impl App {
    /// Starts serving the snapshots of a catalog. Ready once there is one with a generation above 0.
    ///
    /// # Errors
    /// When an address cannot be bound, or no certificate can be made.
    pub async fn start(
        args: &Args,
        admin: Arc<Admin>,
        authority: Authority,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let Authority { issuer, verifier } = authority;
        let serving = Arc::new(Serving::new(issuer.clone(), &args.namespace).await?);
        let metrics = admin.register(xds::Metrics::register);
        let signing = Signing::new(
            issuer.clone(),
            verifier,
            snapshots.clone(),
            admin.register(certificates::Metrics::register),
        );
        let first = snapshots.borrow().clone();
        let hub = Arc::new(Hub::new(first, issuer.trust().borrow().clone(), metrics.clone()));
        admin.show(hub.clone());

        let listener = bind(args.xds_address, "--xds-address")?;
        let xds_address = listener.local_addr()?;
        info!(%xds_address, health_address = %admin.address, "serving");

        let tasks = TaskTracker::new();
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

        let services = Services {
            discovery: Discovery::new(hub, stop.clone()),
            signing: IstioCertificateServiceServer::new(signing).max_decoding_message_size(SIGNING_REQUEST),
        };
        let door = Door::new(serving.clone(), services, metrics, stop);
        let server = tokio::spawn(door.serve(listener));
        Ok(Self {
            xds_address,
            serving,
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
                let now = snapshot.mesh.certificate_validity;
                if validity.replace(now) != Some(now) && now < SHORT_VALIDITY {
                    warn!(
                        validity_s = now.as_secs(),
                        "MeshConfig certificate.serviceCertValidityDuration is under 10 minutes: an outage of the \
                         controller longer than half of it stops the mesh"
                    );
                }
                let known = snapshot.generation > 0;
                hub.publish(snapshot);
                if known {
                    admin.become_ready();
                }
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

fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // A controller that restarts finds its port in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| cannot_listen(address, flag))
}

fn cannot_listen(address: SocketAddr, flag: &str) -> String {
    format!("cannot listen on {address}; choose another address with {flag}")
}
