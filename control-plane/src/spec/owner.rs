//! The workload that a pod belongs to, as metrics name it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const TEMPLATE_HASH: &str = "pod-template-hash";

/// The workload that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `Deployment`, `StatefulSet`, `Job`..., `Pod` when it has none.
    pub kind: String,
    /// Its name; of a pod without owner, the pod's own.
    pub name: String,
}

impl Owner {
    /// The controller of a pod; of a ReplicaSet that a Deployment made, the Deployment.
    #[must_use]
    pub fn of(pod: &ObjectMeta) -> Self {
        let mut owners = pod.owner_references.iter().flatten();
        let Some(owner) = owners.find(|owner| owner.controller == Some(true)) else {
            let name = pod.name.clone().or_else(|| pod.generate_name.clone());
            return Self {
                kind: "Pod".to_owned(),
                name: name.unwrap_or_default(),
            };
        };
        let hash = pod.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        match deployment {
            Some(name) if owner.kind == "ReplicaSet" => Self {
                kind: "Deployment".to_owned(),
                name: name.to_owned(),
            },
            _ => Self {
                kind: owner.kind.clone(),
                name: owner.name.clone(),
            },
        }
    }
}
