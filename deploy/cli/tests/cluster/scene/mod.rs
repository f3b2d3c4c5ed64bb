//! What a case works with: a namespace of its own in the mesh, its objects, its pods.
//!
//! ```ignore
//! async fn echoes(world: Arc<World>) -> Outcome {
//!     let scene = Scene::open(&world, "tcp-echo").await?;          // namespace tcp-echo, in the mesh
//!     scene.apply(&app("server", "echo --port=9000", 9000)).await?; // any YAML; the namespace is added
//!     scene.apply(&client("client")).await?;
//!     scene.ready(&["app=server", "app=client"]).await?;
//!     let client = scene.pod("app=client").await?;                 // the name of a ready pod
//!     scene.eventually("the echo", || async {
//!         let said = scene.exec(&client, "app", &["weir-bookstore", "tell", "server:9000", "hello"]).await?;
//!         said.expect(0, "hello")
//!     }).await
//! }
//! ```
//!
//! Nothing here needs the node: it goes through the API server, so that a case runs on any cluster.

mod objects;
pub(crate) mod pods;

pub(crate) use objects::{Target, apply, documents, patch};
pub(crate) use weir::demo::scrape::Scrape;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::world::{FIELD_MANAGER, MESH, World};

/// How long a condition may take to come true. Far more than it needs: a busy machine is not a broken mesh.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(40);
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Events that evidence shows.
const EVENTS: usize = 12;

/// A namespace of a case; it is deleted, without waiting, when dropped.
pub(crate) struct Scene {
    world: Arc<World>,
    namespace: String,
}

impl Scene {
    /// A namespace in the mesh.
    pub(crate) async fn open(world: &Arc<World>, namespace: &str) -> anyhow::Result<Self> {
        let labels = json!({"openservicemesh.io/monitored-by": MESH});
        let annotations = json!({"openservicemesh.io/sidecar-injection": "enabled"});
        Self::with(
            world,
            namespace,
            &json!({"labels": labels, "annotations": annotations}),
        )
        .await
    }

    /// A namespace outside of the mesh.
    pub(crate) async fn outside(world: &Arc<World>, namespace: &str) -> anyhow::Result<Self> {
        Self::with(world, namespace, &json!({})).await
    }

    async fn with(world: &Arc<World>, namespace: &str, metadata: &serde_json::Value) -> anyhow::Result<Self> {
        let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        object["metadata"]["name"] = namespace.into();
        let namespaces = Api::<Namespace>::all(world.client());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let made = namespaces
            .patch(namespace, &parameters, &Patch::Apply(object))
            .await;
        made.with_context(|| format!("cannot make namespace {namespace}"))?;
        let scene = Self::of(world, namespace);
        // Pods of an account that is not there yet are refused.
        let accounts =
            Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(scene.client(), namespace);
        let made = || async { Ok(accounts.get("default").await.map(drop)?) };
        scene.eventually("the default ServiceAccount", made).await?;
        Ok(scene)
    }

    /// A namespace that is there already; it is deleted with the scene all the same.
    pub(crate) fn of(world: &Arc<World>, namespace: &str) -> Self {
        Self {
            world: Arc::clone(world),
            namespace: namespace.to_owned(),
        }
    }

    /// The mesh that all scenes share.
    pub(crate) fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// The namespace's name.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The administrator's client.
    pub(crate) fn client(&self) -> Client {
        self.world.client()
    }

    /// Tries until it succeeds; the last error, with evidence, when it does not.
    pub(crate) async fn eventually<T, F>(&self, what: &str, attempt: impl FnMut() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        match eventually(what, attempt).await {
            Ok(value) => Ok(value),
            Err(error) => Err(error.context(self.evidence().await)),
        }
    }

    /// Tries again and again for this long, and fails at once when an attempt does.
    pub(crate) async fn always<F>(
        &self,
        what: &str,
        period: Duration,
        mut attempt: impl FnMut() -> F,
    ) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let begun = Instant::now();
        while begun.elapsed() < period {
            if let Err(error) = attempt().await {
                let context = format!(
                    "{what}: not so after {:?}\n{}",
                    begun.elapsed(),
                    self.evidence().await
                );
                return Err(error.context(context));
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// What is known of the namespace: its pods, their logs, its events, the controllers' logs.
    pub(crate) async fn evidence(&self) -> String {
        let mut text = format!("namespace {}:\n", self.namespace);
        text.push_str(&pods::evidence(&self.client(), &self.namespace).await);
        let events = Api::<Event>::namespaced(self.client(), &self.namespace);
        if let Ok(events) = events.list(&ListParams::default()).await {
            for event in events.items.iter().rev().take(EVENTS) {
                let object = event.involved_object.name.as_deref().unwrap_or_default();
                let reason = event.reason.as_deref().unwrap_or_default();
                let message = event.message.as_deref().unwrap_or_default();
                text.push_str(&format!("event: {object}: {reason}: {message}\n"));
            }
        }
        text.push_str(&self.world.evidence().await);
        text
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::env::var_os("WEIR_KEEP_SCENES").is_some() {
            return;
        }
        let namespaces = Api::<Namespace>::all(self.world.client());
        let name = self.namespace.clone();
        self.world.spawn(async move {
            let _gone_already = namespaces.delete(&name, &DeleteParams::default()).await;
        });
    }
}

/// Tries until it succeeds. What is tried must be over soon, one way or the other.
pub(crate) async fn eventually<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let begun = Instant::now();
    loop {
        let error = match timeout(ATTEMPT, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("an attempt took longer than {ATTEMPT:?}"),
        };
        if begun.elapsed() > PATIENCE {
            return Err(error.context(format!("{what}: not so within {PATIENCE:?}")));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// `namespace/name` of an object, for texts.
pub(crate) fn described(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}
