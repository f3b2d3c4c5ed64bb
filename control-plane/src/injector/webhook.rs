//! The injector, asked by the API server when a pod is created.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    core::{
        DynamicObject,
        admission::{AdmissionRequest, AdmissionResponse},
    },
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use super::{Decision, NamespaceMeta, Settings, decide, inject, patch};
use crate::{
    admission::Reviewer,
    certificates::TrustBundle,
    endpoints::Objects,
    spec::{MeshConfig, ObjectName},
};

const ANSWER: Duration = Duration::from_secs(4);

/// Adds the sidecar to pods on their way into the cluster, with the MeshConfig and the roots of that moment. Changes
/// nothing but the answer, so that a dry run is like any other.
pub struct Webhook {
    base: Settings,
    objects: watch::Receiver<Arc<Objects>>,
    trust: watch::Receiver<Arc<TrustBundle>>,
    client: Client,
}

impl Webhook {
    /// Injects what `base` says, changed by MeshConfig.
    #[must_use]
    pub fn new(
        base: Settings,
        objects: watch::Receiver<Arc<Objects>>,
        trust: watch::Receiver<Arc<TrustBundle>>,
        client: Client,
    ) -> Self {
        Self {
            base,
            objects,
            trust,
            client,
        }
    }

    async fn mutate(
        &self,
        request: &AdmissionRequest<DynamicObject>,
    ) -> Result<Option<json_patch::Patch>, String> {
        let Some(object) = &request.object else {
            return Ok(None);
        };
        let before = serde_json::to_value(object).map_err(|error| error.to_string())?;
        let mut pod =
            Pod::deserialize(&before).map_err(|error| format!("the pod cannot be read: {error}"))?;
        let name = request.namespace.as_deref().unwrap_or_default();
        // The name is in the request; the pod itself may do without.
        pod.metadata.namespace.get_or_insert_with(|| name.to_owned());
        let settings = self.settings();
        let namespace = self.namespace(name, &pod, &settings).await?;
        let injected = inject(pod.clone(), &namespace, &settings).map_err(|error| error.to_string())?;
        if injected == pod {
            return Ok(None);
        }
        let changed = |pod: Pod| serde_json::to_value(pod).map_err(|error| error.to_string());
        let patch = patch::between(&before, &changed(pod)?, &changed(injected)?);
        applies(&before, &patch)?;
        Ok(Some(patch))
    }

    /// The settings of this moment.
    fn settings(&self) -> Settings {
        let objects = self.objects.borrow().clone();
        let name = ObjectName::new(&self.base.mesh_namespace, MeshConfig::NAME);
        let mut settings = match objects.mesh_configs.get(&name) {
            Some(config) => self.base.with_mesh_config(&config.value.spec),
            None => self.base.clone(),
        };
        settings.trust_bundle = self.trust.borrow().pem().to_owned();
        settings
    }

    /// The namespace as watched. Where that would leave the pod without a sidecar it is asked for: the watch may not have
    /// seen yet that the namespace was added to the mesh, and the API server asks about no others.
    async fn namespace(&self, name: &str, pod: &Pod, settings: &Settings) -> Result<NamespaceMeta, String> {
        let known = self
            .objects
            .borrow()
            .namespaces
            .get(&ObjectName::new("", name))
            .cloned();
        if let Some(known) = known {
            let known = NamespaceMeta::of(&known.value);
            if let Ok(Decision::Inject | Decision::HostNetwork) = decide(pod, &known, settings) {
                return Ok(known);
            }
        }
        let api = Api::<Namespace>::all(self.client.clone());
        match timeout(ANSWER, api.get(name)).await {
            Ok(Ok(namespace)) => Ok(NamespaceMeta::of(&namespace)),
            Ok(Err(error)) => Err(format!(
                "cannot read namespace {name}: {error}; create the pod again"
            )),
            Err(_) => Err(format!("no answer about namespace {name}; create the pod again")),
        }
    }
}

/// A patch that would not apply is told here, with its reason, and not by the API server without one.
fn applies(before: &Value, patch: &json_patch::Patch) -> Result<(), String> {
    let mut after = before.clone();
    json_patch::patch(&mut after, patch).map_err(|error| format!("the sidecar cannot be added: {error}"))
}

impl Reviewer for Webhook {
    fn path(&self) -> &'static str {
        "/mutate-pod-creation"
    }

    fn review(&self, request: AdmissionRequest<DynamicObject>) -> BoxFuture<'_, AdmissionResponse> {
        Box::pin(async move {
            let answer = AdmissionResponse::from(&request);
            let namespace = request.namespace.as_deref().unwrap_or_default();
            let pod = describe(&request);
            match self.mutate(&request).await {
                Ok(None) => answer,
                Ok(Some(patch)) => {
                    info!(namespace, pod, dry_run = request.dry_run, "added the sidecar");
                    let refused = answer.clone();
                    answer
                        .with_patch(patch)
                        .unwrap_or_else(|error| refused.deny(error.to_string()))
                }
                Err(why) => {
                    warn!(namespace, pod, why, "refused a pod");
                    answer.deny(format!("weir: {why}"))
                }
            }
        })
    }
}

fn describe(request: &AdmissionRequest<DynamicObject>) -> String {
    let object = request.object.as_ref();
    let prefix = object.and_then(|object| object.metadata.generate_name.clone());
    let name = object
        .map(|object| object.name_any())
        .filter(|name| !name.is_empty());
    name.or(prefix).unwrap_or_default()
}

#[cfg(test)]
mod tests;
