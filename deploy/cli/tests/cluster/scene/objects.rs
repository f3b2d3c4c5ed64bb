//! Objects of any kind: apply, patch, read, delete.

use anyhow::{Context, bail};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    core::GroupVersionKind,
    discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind},
};
use serde_json::Value;

use super::{Scene, described, eventually};
use crate::world::FIELD_MANAGER;

/// An object by its kind and name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// `apps/v1`.
    pub(crate) version: &'a str,
    /// `Deployment`.
    pub(crate) kind: &'a str,
    pub(crate) name: &'a str,
}

impl Scene {
    /// Applies YAML of one or more objects; those without a namespace get the scene's.
    pub(crate) async fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        for object in documents(yaml)? {
            apply(&self.client(), object, &self.namespace).await?;
        }
        Ok(())
    }

    /// An object of the scene's namespace.
    pub(crate) async fn get(&self, target: Target<'_>) -> anyhow::Result<DynamicObject> {
        let api = target.api(&self.client(), &self.namespace).await?;
        let found = api.get(target.name).await;
        found.with_context(|| format!("cannot get {} {}", target.kind, target.name))
    }

    /// Deletes an object of the scene's namespace and waits until it is gone.
    pub(crate) async fn delete(&self, target: Target<'_>) -> anyhow::Result<()> {
        let api = target.api(&self.client(), &self.namespace).await?;
        let found = api.get(target.name).await;
        let uid = found
            .with_context(|| format!("cannot delete {} {}", target.kind, target.name))?
            .uid();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::foreground()
        };
        api.delete(target.name, &parameters).await?;
        self.eventually("the object to be gone", || async {
            match api.get_opt(target.name).await? {
                Some(left) if left.uid() == uid => bail!("{} {} is there", target.kind, target.name),
                _ => Ok(()),
            }
        })
        .await
    }
}

impl Target<'_> {
    async fn api(&self, client: &Client, namespace: &str) -> anyhow::Result<Api<DynamicObject>> {
        let (group, version) = self.version.split_once('/').unwrap_or(("", self.version));
        api(
            client,
            &GroupVersionKind::gvk(group, version, self.kind),
            namespace,
        )
        .await
    }
}

/// Merges a change into an object.
pub(crate) async fn patch(
    client: &Client,
    target: Target<'_>,
    namespace: &str,
    change: &Value,
) -> anyhow::Result<()> {
    let api = target.api(client, namespace).await?;
    let patched = api
        .patch(target.name, &PatchParams::default(), &Patch::Merge(change))
        .await;
    patched.with_context(|| format!("cannot patch {} {}", target.kind, target.name))?;
    Ok(())
}

/// Makes an object as it is written, on the server's side.
pub(crate) async fn apply(client: &Client, mut object: DynamicObject, namespace: &str) -> anyhow::Result<()> {
    let types = object
        .types
        .clone()
        .context("an object without apiVersion and kind")?;
    let kind = GroupVersionKind::try_from(&types)?;
    if object.metadata.namespace.is_none() {
        object.metadata.namespace = Some(namespace.to_owned());
    }
    let api = api(client, &kind, &object.namespace().unwrap_or_default()).await?;
    let name = object.name_any();
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    // A webhook that is just being replaced does not answer for a moment; that is not what is tested.
    let what = format!("to apply {} {name}", types.kind);
    let applied = eventually(&what, || async {
        match api.patch(&name, &parameters, &Patch::Apply(&object)).await {
            Err(kube::Error::Api(status))
                if status.code == 500 && status.message.contains("failed calling webhook") =>
            {
                bail!("{}", status.message)
            }
            other => Ok(other),
        }
    });
    let applied = applied.await?;
    applied.with_context(|| format!("cannot apply {} {}", types.kind, described(&object)))?;
    Ok(())
}

async fn api(
    client: &Client,
    kind: &GroupVersionKind,
    namespace: &str,
) -> anyhow::Result<Api<DynamicObject>> {
    let found = pinned_kind(client, kind).await;
    let (resource, capabilities): (ApiResource, ApiCapabilities) = found.with_context(|| {
        format!(
            "the cluster does not know {}/{} {}",
            kind.group, kind.version, kind.kind
        )
    })?;
    Ok(match capabilities.scope {
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
        Scope::Cluster => Api::all_with(client.clone(), &resource),
    })
}

/// The objects of a YAML text.
pub(crate) fn documents(yaml: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(yaml).with_context(|| format!("not YAML:\n{yaml}"))?;
    let objects = values.into_iter().filter(|value| !value.is_null());
    objects
        .map(|value| Ok(serde_json::from_value(value)?))
        .collect::<anyhow::Result<_>>()
        .with_context(|| format!("not an object:\n{yaml}"))
}
