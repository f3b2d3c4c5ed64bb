//! Pods as a kubelet would show them, and their tokens.

use anyhow::Context;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::space::Space;

/// The audience of tokens by which sidecars prove who they are.
pub(crate) const AUDIENCE: &str = "weir-controller";
const HOUR: i64 = 3600;

impl Space {
    /// Creates a pod; what it has become on its way through the webhooks.
    pub(crate) async fn create_pod(&self, pod: Value) -> Result<Pod, kube::Error> {
        let pod: Pod = serde_json::from_value(pod).map_err(kube::Error::SerdeError)?;
        let api = Api::<Pod>::namespaced(self.client(), &self.name);
        api.create(&PostParams::default(), &pod).await
    }

    /// Creates a pod with one application and says, as a kubelet would, that it runs.
    pub(crate) async fn run_pod(&self, name: &str, account: &str, ip: &str) -> anyhow::Result<Pod> {
        let pod = self.create_pod(pod(name, account)).await?;
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let api = Api::<Pod>::namespaced(self.client(), &self.name);
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await?;
        Ok(pod)
    }

    /// Deletes a pod at once.
    pub(crate) async fn delete_pod(&self, name: &str) -> anyhow::Result<()> {
        let now = DeleteParams::default().grace_period(0);
        let api = Api::<Pod>::namespaced(self.client(), &self.name);
        api.delete(name, &now).await?;
        Ok(())
    }

    /// A token of a ServiceAccount, bound to a pod where one is given.
    pub(crate) async fn token(
        &self,
        account: &str,
        pod: Option<&Pod>,
        audience: &str,
    ) -> anyhow::Result<String> {
        let bound = pod.map(|pod| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name_any()),
            uid: pod.uid(),
        });
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                bound_object_ref: bound,
                expiration_seconds: Some(HOUR),
            },
            ..TokenRequest::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client(), &self.name);
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        Ok(answer.status.context("no token")?.token)
    }
}

/// A pod with one application.
pub(crate) fn pod(name: &str, account: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "serviceAccountName": account,
            "containers": [{
                "name": "app", "image": "app",
                "ports": [{"name": "http-web", "containerPort": 8080}],
            }],
        },
    })
}
