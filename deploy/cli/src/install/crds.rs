//! The mesh's kinds, in a cluster that may have some of them from OSM, from another mesh or from an older version.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use tokio::time::{Instant, sleep};

use crate::{
    api::{FIELD_MANAGER, Outcome, explain, is_conflict, is_missing},
    manifests,
};

const POLL: Duration = Duration::from_millis(200);

/// Makes the kinds, or brings those that are there to what the mesh needs. Tells what became of each.
///
/// # Errors
/// When the API server refuses one, or does not serve it before `deadline`.
pub(super) async fn apply(
    client: &Client,
    dry_run: bool,
    deadline: Instant,
) -> anyhow::Result<Vec<(String, Outcome)>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut outcomes = Vec::new();
    for crd in manifests::crds()? {
        let name = crd.name_any();
        let outcome = apply_one(&api, &crd, dry_run, deadline)
            .await
            .with_context(|| format!("cannot apply CustomResourceDefinition {name}"))?;
        outcomes.push((name, outcome));
    }
    if !dry_run {
        for (name, _) in &outcomes {
            let failed = || format!("CustomResourceDefinition {name} is not served");
            let crd = wait_established(&api, name, deadline)
                .await
                .with_context(failed)?;
            wait_served(client, &crd, deadline).await.with_context(failed)?;
        }
    }
    Ok(outcomes)
}

async fn apply_one(
    api: &Api<CustomResourceDefinition>,
    wanted: &CustomResourceDefinition,
    dry_run: bool,
    deadline: Instant,
) -> anyhow::Result<Outcome> {
    let name = wanted.name_any();
    let parameters = PostParams {
        dry_run,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    };
    loop {
        let written = match api.get_opt(&name).await.map_err(explain)? {
            Some(there) if there.metadata.deletion_timestamp.is_some() => None,
            Some(there) => {
                let before = there.resource_version();
                let merged = merge(there, wanted.clone());
                Some(api.replace(&name, &parameters, &merged).await.map(|after| {
                    if after.resource_version() == before {
                        Outcome::Unchanged
                    } else {
                        Outcome::Changed
                    }
                }))
            }
            None => Some(api.create(&parameters, wanted).await.map(|_| Outcome::Created)),
        };
        match written {
            Some(Ok(outcome)) => return Ok(outcome),
            Some(Err(error)) if !is_conflict(&error) => return Err(explain(error)),
            _ => {}
        }
        if Instant::now() > deadline {
            bail!("it keeps changing, or is being deleted; look at it with kubectl get crd {name} -o yaml");
        }
        sleep(POLL).await;
    }
}

/// What is there, with the mesh's schema and versions. Versions in which objects are stored stay, or the API server
/// could not read these objects any more.
fn merge(there: CustomResourceDefinition, wanted: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut merged = there;
    let stored = merged
        .status
        .iter()
        .flat_map(|status| status.stored_versions.iter().flatten());
    let stored: Vec<String> = stored.cloned().collect();
    let old = std::mem::replace(&mut merged.spec, wanted.spec);
    for mut version in old.versions {
        let known = merged.spec.versions.iter().any(|it| it.name == version.name);
        if !known && stored.contains(&version.name) {
            version.storage = false;
            merged.spec.versions.push(version);
        }
    }
    let labels = merged.metadata.labels.get_or_insert_default();
    labels.extend(wanted.metadata.labels.into_iter().flatten());
    merged
}

async fn wait_established(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    deadline: Instant,
) -> anyhow::Result<CustomResourceDefinition> {
    loop {
        let crd = api.get(name).await.map_err(explain)?;
        let status = crd.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        if find("Established").is_some_and(|condition| condition.status == "True") {
            return Ok(crd);
        }
        if let Some(refused) = find("NamesAccepted").filter(|condition| condition.status == "False") {
            bail!(
                "its names are taken: {}; remove the other kind",
                refused.message.as_deref().unwrap_or_default()
            );
        }
        if Instant::now() > deadline {
            bail!("the API server takes too long; look at it with kubectl describe crd {name}");
        }
        sleep(POLL).await;
    }
}

/// Waits until the kind can be listed, which an API server may be a moment late with.
async fn wait_served(
    client: &Client,
    crd: &CustomResourceDefinition,
    deadline: Instant,
) -> anyhow::Result<()> {
    let (names, group) = (&crd.spec.names, &crd.spec.group);
    let stored = crd.spec.versions.iter().find(|version| version.storage);
    let version = stored.map(|version| version.name.as_str()).unwrap_or_default();
    let kind = GroupVersionKind::gvk(group, version, &names.kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, &names.plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    loop {
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => return Ok(()),
            Err(error) if is_missing(&error) && Instant::now() < deadline => sleep(POLL).await,
            Err(error) => return Err(explain(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn crd(versions: &[(&str, bool)], stored: &[&str], conversion: &str) -> CustomResourceDefinition {
        let versions: Vec<_> = versions
            .iter()
            .map(|(name, storage)| json!({ "name": name, "served": true, "storage": storage }))
            .collect();
        serde_json::from_value(json!({
            "metadata": { "name": "things.example.com", "labels": { conversion: "yes" }, "resourceVersion": "7" },
            "spec": {
                "group": "example.com",
                "names": { "kind": "Thing", "plural": "things" },
                "scope": "Namespaced",
                "versions": versions,
                "conversion": { "strategy": conversion },
            },
            "status": { "storedVersions": stored },
        }))
        .unwrap()
    }

    #[test]
    fn versions_with_stored_objects_stay() {
        let there = crd(
            &[("v1", false), ("v2", true), ("v0", false)],
            &["v1", "v2"],
            "Webhook",
        );
        let merged = merge(there, crd(&[("v2", true), ("v3", false)], &[], "None"));
        let versions: Vec<_> = merged
            .spec
            .versions
            .iter()
            .map(|it| (it.name.as_str(), it.storage))
            .collect();
        assert_eq!(versions, [("v2", true), ("v3", false), ("v1", false)]);
        assert_eq!(merged.spec.conversion.unwrap().strategy, "None");
        assert_eq!(merged.metadata.resource_version.as_deref(), Some("7"));
        let labels = merged.metadata.labels.unwrap();
        assert!(labels.contains_key("Webhook") && labels.contains_key("None"));
    }
}
