//! The controller on a Kubernetes cluster.

use std::{fmt::Display, sync::Arc, time::Duration};

use anyhow::Context as _;
use kube::Client;
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{App, Authority, bind, settings, start_admin};
use crate::{
    admin::Admin,
    admission,
    catalog::{self, Snapshot},
    certificates::{BuiltIn, Issuer as _, Serving, TokenReviews, TrustBundle, ca_bundle, root_secret},
    config::Args,
    endpoints::{Kubernetes, KubernetesMetrics, KubernetesOptions, Objects, Provider as _},
    injector,
    leader::{self, Leadership},
    logging::Logging,
    spec::{MeshConfig, ObjectName},
    status, validator,
};

/// Between telling that this replica is stopping and ending its streams: until then nodes may still send it new
/// connections.
const LEAVE: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Native sidecars are on by default from this minor version of Kubernetes 1 on.
const NATIVE_SIDECARS: u32 = 29;

/// Runs until told to stop. Waits for an API server that is not there yet.
pub(super) async fn run(args: &Args, logging: &Logging, stop: CancellationToken) -> anyhow::Result<()> {
    let client = connect().await?;
    // What serves goes on for a moment after the replica was told to stop.
    let end = CancellationToken::new();
    let _ended = end.clone().drop_guard();
    let admin = start_admin(args, &end).await?;
    let running = serve(args, logging, client, &admin, &stop, &end);
    let Some(app) = stop.run_until_cancelled(Box::pin(running)).await.transpose()? else {
        return Ok(());
    };
    stop.cancelled().await;
    admin.leave();
    info!(
        seconds = LEAVE.as_secs(),
        "leaving: not ready any more, serving a little longer"
    );
    sleep(LEAVE).await;
    end.cancel();
    app.finished(end).await;
    Ok(())
}

async fn connect() -> anyhow::Result<Client> {
    let config = kube::Config::infer().await.context(
        "found no cluster: this is no pod with a ServiceAccount and KUBECONFIG names no usable file; \
         to run without a cluster give --manifests and --state-dir",
    )?;
    info!(server = %config.cluster_url, "reading the mesh from a cluster");
    Ok(Client::try_from(config)?)
}

async fn serve(
    args: &Args,
    logging: &Logging,
    client: Client,
    admin: &Arc<Admin>,
    stop: &CancellationToken,
    end: &CancellationToken,
) -> anyhow::Result<App> {
    let root = Arc::new(
        persist("get the mesh's root", || {
            root_secret::open(&client, &args.namespace)
        })
        .await,
    );
    let version = persist("ask the API server's version", || client.apiserver_version()).await;
    let options = KubernetesOptions {
        mesh_name: args.mesh_name.clone(),
        namespace: args.namespace.clone(),
        metrics: admin.register(KubernetesMetrics::register),
    };
    let kubernetes = Kubernetes::start(client.clone(), options, end);
    kubernetes.synced().await;
    let objects = kubernetes.objects();
    let snapshots = catalog::follow(
        objects.clone(),
        settings(args),
        admin.register(catalog::Metrics::register),
    );
    let authority = Authority {
        issuer: root.clone(),
        verifier: Arc::new(TokenReviews::new(client.clone())),
    };
    // Before the replica is ready: the API server's calls then wait in the queue for the few moments until they are served.
    let injector_listener = bind(args.injector_address, "--injector-address")?;
    let validator_listener = bind(args.validator_address, "--validator-address")?;
    let app = App::start(args, admin.clone(), authority, snapshots.clone(), end.clone()).await?;
    let native = minor(&version.minor).is_some_and(|minor| minor >= NATIVE_SIDECARS);
    let webhooks = Webhooks {
        client: client.clone(),
        objects: objects.clone(),
        trust: root.trust(),
        serving: app.serving.clone(),
    };
    let listeners = [injector_listener, validator_listener];
    webhooks.start(args, native, listeners, admin, end)?;
    follow_log_level(logging.clone(), objects, args.namespace.clone(), end.clone());
    keep_the_watch(kubernetes, end.clone());
    write(args, client, root, snapshots, stop);
    Ok(app)
}

/// What the webhooks need to know.
struct Webhooks {
    client: Client,
    objects: watch::Receiver<Arc<Objects>>,
    trust: watch::Receiver<Arc<TrustBundle>>,
    serving: Arc<Serving>,
}

impl Webhooks {
    fn start(
        self,
        args: &Args,
        native_sidecars: bool,
        [injector_listener, validator_listener]: [TcpListener; 2],
        admin: &Admin,
        end: &CancellationToken,
    ) -> anyhow::Result<()> {
        let base = injector::Settings {
            mesh_name: args.mesh_name.clone(),
            mesh_namespace: args.namespace.clone(),
            trust_domain: args.trust_domain.clone(),
            proxy_image: args.proxy_image.clone(),
            init_image: args.init_image.clone(),
            image_pull_policy: args.image_pull_policy.clone(),
            native_sidecars,
            ..injector::Settings::default()
        };
        let injector = injector::Webhook::new(base, self.objects.clone(), self.trust, self.client);
        let validator = validator::Webhook::new(&args.mesh_name, &args.namespace, self.objects);
        let metrics = admin.register(admission::Metrics::register);
        info!(
            injector_address = %injector_listener.local_addr()?,
            validator_address = %validator_listener.local_addr()?,
            native_sidecars,
            "serving webhooks"
        );
        let reviewers: [(_, Arc<dyn admission::Reviewer>); 2] = [
            (injector_listener, Arc::new(injector)),
            (validator_listener, Arc::new(validator)),
        ];
        for (listener, reviewer) in reviewers {
            let served = admission::serve(
                listener,
                self.serving.clone(),
                reviewer,
                metrics.clone(),
                end.clone(),
            );
            tokio::spawn(served);
        }
        Ok(())
    }
}

/// Everything that changes objects of the cluster; it ends as soon as the replica is told to stop, so that another one
/// takes over.
fn write(
    args: &Args,
    client: Client,
    root: Arc<BuiltIn>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    stop: &CancellationToken,
) {
    let replica = replica(args);
    let leads: Leadership = leader::campaign(client.clone(), &args.namespace, &replica, stop.clone());
    tokio::spawn(ca_bundle::keep(
        client.clone(),
        root.trust(),
        leads.clone(),
        stop.clone(),
    ));
    tokio::spawn(status::report(
        client.clone(),
        replica,
        snapshots,
        leads,
        stop.clone(),
    ));
    tokio::spawn(root_secret::follow(
        client,
        args.namespace.clone(),
        root,
        stop.clone(),
    ));
}

/// A name that no other replica has.
fn replica(args: &Args) -> String {
    let name = args.replica.clone().filter(|name| !name.is_empty());
    name.unwrap_or_else(|| {
        format!(
            "weir-controller-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        )
    })
}

fn keep_the_watch(kubernetes: Kubernetes, end: CancellationToken) {
    tokio::spawn(async move {
        end.cancelled().await;
        drop(kubernetes);
    });
}

/// Logs as much as MeshConfig says.
fn follow_log_level(
    logging: Logging,
    mut objects: watch::Receiver<Arc<Objects>>,
    namespace: String,
    end: CancellationToken,
) {
    let name = ObjectName::new(&namespace, MeshConfig::NAME);
    objects.mark_changed();
    tokio::spawn(end.run_until_cancelled_owned(async move {
        while objects.changed().await.is_ok() {
            let now = objects.borrow_and_update().clone();
            let config = now.mesh_configs.get(&name);
            logging
                .follow(config.and_then(|config| config.value.spec.observability.osm_log_level.as_deref()));
        }
    }));
}

/// The number in a minor version, which some clouds write as `29+`.
fn minor(text: &str) -> Option<u32> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    digits.parse().ok()
}

/// Tries until it succeeds, ever more slowly.
async fn persist<T, E: Display, F: Future<Output = Result<T, E>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let mut pause = FIRST_RETRY;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => warn!(%error, retry_ms = pause.as_millis(), "cannot {what}; trying again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_clouds_are_understood() {
        assert_eq!(minor("33"), Some(33));
        assert_eq!(minor("29+"), Some(29));
        assert_eq!(minor(""), None);
    }
}
