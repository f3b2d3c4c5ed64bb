//! Whether the mesh could be installed.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};

use super::report::Section;
use crate::{
    api::{self, explain},
    install::existing,
    manifests::Values,
};

/// What `weir install` makes: API group, resource, and whether it is in the mesh's namespace.
const MADE: [(&str, &str, bool); 13] = [
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        false,
    ),
    (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        false,
    ),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("", "serviceaccounts", true),
    ("", "services", true),
    ("apps", "deployments", true),
    ("policy", "poddisruptionbudgets", true),
    ("config.openservicemesh.io", "meshconfigs", true),
];

/// Checks that nothing is in the way of `weir install`.
pub(super) async fn permissions(client: &Client, cluster: &api::Options) -> Section {
    let mut section = Section::new("installation");
    let namespace = &cluster.namespace;
    if let Err(error) = way(client, namespace).await {
        section.error("cluster", format!("{error:#}"), "see `weir install --help`");
    }
    let asked = MADE.map(|(group, resource, inside)| async move {
        let namespace = inside.then_some(namespace.as_str());
        (resource, may(client, group, resource, namespace).await)
    });
    let mut allowed = 0;
    for (resource, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(true) => allowed += 1,
            Ok(false) => section.error(
                resource,
                "you may not create and patch them",
                "use an account that may, such as a cluster admin's",
            ),
            Err(error) => section.warning(
                resource,
                format!("whether you may create them is not known: {error:#}"),
                "try `weir install --dry-run`",
            ),
        }
    }
    section.note(format!("you may make {allowed} of {} kinds", MADE.len()));
    section
}

/// Whether another mesh is in the way.
async fn way(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let found = existing::find(client).await?;
    let values = Values::new(&[])?;
    existing::check(client, &found, namespace, &values.mesh_name).await
}

async fn may(client: &Client, group: &str, resource: &str, namespace: Option<&str>) -> anyhow::Result<bool> {
    for verb in ["create", "patch"] {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    namespace: namespace.map(str::to_owned),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
        let answer = reviews
            .create(&PostParams::default(), &review)
            .await
            .map_err(explain)?;
        if !answer.status.is_some_and(|status| status.allowed) {
            return Ok(false);
        }
    }
    Ok(true)
}
