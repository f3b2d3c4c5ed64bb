//! Makes objects in the cluster, changes them, takes them away.

use std::{fmt, time::Duration};

use anyhow::Context;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use tokio::time::{Instant, sleep};

use super::{explain, is_missing};

/// Who `weir` is to server-side apply.
pub const FIELD_MANAGER: &str = "weir";
/// How often an object that is being deleted is looked at.
const POLL: Duration = Duration::from_millis(500);

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was otherwise.
    Changed,
    /// It was so already.
    Unchanged,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        })
    }
}

/// How the API server calls an object: `Deployment weir-system/weir-controller`.
#[must_use]
pub fn describe(object: &DynamicObject) -> String {
    let kind = object
        .types
        .as_ref()
        .map_or("object", |types| types.kind.as_str());
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

/// The API of the objects like this one.
///
/// # Errors
/// When the object does not say its kind.
pub fn api_of(client: &Client, object: &DynamicObject) -> anyhow::Result<Api<DynamicObject>> {
    let types = object.types.as_ref().context("an object says no kind")?;
    let kind = GroupVersionKind::try_from(types).context("an object's apiVersion is not one")?;
    let resource = ApiResource::from_gvk(&kind);
    Ok(match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

/// The object as it is now; none where it, or its whole kind, is not there.
///
/// # Errors
/// When the API server does not say.
pub async fn look(api: &Api<DynamicObject>, name: &str) -> anyhow::Result<Option<DynamicObject>> {
    match api.get(name).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(explain(error)),
    }
}

/// Makes an object what `object` says, by server-side apply; fields that it does not name stay. A dry run only asks
/// what would become of it; what cannot be known because the namespace or the kind is not there yet counts as
/// created.
///
/// # Errors
/// When the API server refuses it.
pub async fn apply(client: &Client, object: &DynamicObject, dry_run: bool) -> anyhow::Result<Outcome> {
    let api = api_of(client, object)?;
    let name = object.name_any();
    let failed = || format!("cannot apply {}", describe(object));
    let before = look(&api, &name).await.with_context(failed)?;
    let mut parameters = PatchParams::apply(FIELD_MANAGER).force();
    parameters.dry_run = dry_run;
    let after = match api.patch(&name, &parameters, &Patch::Apply(object)).await {
        Ok(after) => after,
        Err(error) if dry_run && is_missing(&error) => return Ok(Outcome::Created),
        Err(error) => return Err(explain(error)).with_context(failed),
    };
    Ok(match before.map(|before| differ(before, after)) {
        None => Outcome::Created,
        Some(true) => Outcome::Changed,
        Some(false) => Outcome::Unchanged,
    })
}

/// Whether an object has changed, but for the book-keeping of who set which field.
fn differ(mut before: DynamicObject, mut after: DynamicObject) -> bool {
    for object in [&mut before, &mut after] {
        object.metadata.managed_fields = None;
        object.metadata.resource_version = None;
    }
    before != after
}

/// Deletes an object and what it owns. Tells whether it was there.
///
/// # Errors
/// When the API server refuses it.
pub async fn delete(client: &Client, object: &DynamicObject) -> anyhow::Result<bool> {
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    match api_of(client, object)?
        .delete(&object.name_any(), &parameters)
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(explain(error)).with_context(|| format!("cannot delete {}", describe(object))),
    }
}

/// Waits until an object is gone. Tells whether it went before `deadline`.
///
/// # Errors
/// When the API server does not say.
pub async fn gone(client: &Client, object: &DynamicObject, deadline: Instant) -> anyhow::Result<bool> {
    let api = api_of(client, object)?;
    let name = object.name_any();
    loop {
        let there = look(&api, &name).await;
        if there
            .with_context(|| format!("cannot look at {}", describe(object)))?
            .is_none()
        {
            return Ok(true);
        }
        if Instant::now() + POLL > deadline {
            return Ok(false);
        }
        sleep(POLL).await;
    }
}
