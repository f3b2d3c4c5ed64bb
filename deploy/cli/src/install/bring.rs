//! Brings a cluster to the mesh that is asked for, step by step, and says what becomes of each object.

use std::io::{self, Write};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Pace, crds,
    existing::{self, Installed, VALUES_ANNOTATION},
    rollout, webhooks,
};
use crate::{
    api::{self, FIELD_MANAGER, Outcome, explain},
    manifests::{self, Values, combine},
};

/// What is asked for.
pub(crate) struct Request<'a> {
    /// The namespace of the control plane.
    pub(crate) namespace: &'a str,
    /// The values that the user gave.
    pub(crate) layer: Value,
    /// Whether values given at earlier installations still count.
    pub(crate) keep_values: bool,
    /// How far and how long.
    pub(crate) pace: &'a Pace,
}

/// Makes or changes every object of the mesh, and waits until it works. `found` is what is there already.
///
/// # Errors
/// When something is in the way, the cluster refuses an object, or the mesh does not work in time. The text names
/// the object and what to do.
pub(crate) async fn bring(client: &Client, found: &[Installed], request: &Request<'_>) -> anyhow::Result<()> {
    let mut layer = json!({});
    if let Some(mesh) = found.first().filter(|_| request.keep_values) {
        combine(&mut layer, &mesh.values);
    }
    combine(&mut layer, &request.layer);
    let values = Values::new(std::slice::from_ref(&layer))?;
    let namespace = request.namespace;
    existing::check(client, found, namespace, &values.mesh_name).await?;

    let Pace {
        dry_run,
        no_wait,
        timeout,
    } = *request.pace;
    let deadline = Instant::now() + timeout;
    for (name, outcome) in crds::apply(client, dry_run, deadline).await? {
        say(&format!("CustomResourceDefinition {name}"), outcome, dry_run)?;
    }
    let ours = prepare_namespace(client, namespace, deadline).await?;
    for mut object in manifests::objects(namespace, &values)? {
        let outcome = match object.types.as_ref().map(|types| types.kind.as_str()) {
            Some("Namespace") if !ours => continue,
            Some("MeshConfig") => mesh_config(client, &object, &request.layer, dry_run).await?,
            _ => {
                prepare(client, &mut object, &layer).await?;
                api::apply(client, &object, dry_run).await?
            }
        };
        say(&api::describe(&object), outcome, dry_run)?;
    }
    if dry_run {
        return Ok(());
    }
    if !no_wait {
        rollout::wait(client, namespace, deadline).await?;
        webhooks::wait(client, namespace, deadline).await?;
    }
    what_next(namespace, &values, no_wait)?;
    Ok(())
}

/// Adds to an object what is not in its file: the values it was made with, and what somebody changed on purpose.
async fn prepare(client: &Client, object: &mut DynamicObject, layer: &Value) -> anyhow::Result<()> {
    match object.types.as_ref().map(|types| types.kind.as_str()) {
        Some("Deployment") => {
            let annotations = object.annotations_mut();
            annotations.insert(VALUES_ANNOTATION.to_owned(), layer.to_string());
        }
        Some("MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            let there = api::look(&api::api_of(client, object)?, &object.name_any()).await?;
            if let Some(there) = there {
                webhooks::keep_urls(&there, object);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Makes sure that the namespace is not on its way out. Tells whether it is the mesh's to make and to label; one
/// that a user made stays as it is.
async fn prepare_namespace(client: &Client, namespace: &str, deadline: Instant) -> anyhow::Result<bool> {
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(there) = api.get_opt(namespace).await.map_err(explain)? else {
        return Ok(true);
    };
    if there.metadata.deletion_timestamp.is_none() {
        return Ok(there
            .labels()
            .get("app.kubernetes.io/part-of")
            .is_some_and(|it| it == "weir"));
    }
    writeln!(io::stdout(), "waiting: Namespace {namespace} is being deleted")?;
    let object: DynamicObject = serde_json::from_value(serde_json::to_value(&there)?)?;
    if !api::gone(client, &object, deadline).await? {
        bail!(
            "Namespace {namespace} is still being deleted; see what holds it with kubectl get namespace {namespace} -o yaml"
        );
    }
    Ok(true)
}

/// Makes the MeshConfig. One that is there keeps its values, but for those that the user gives now.
async fn mesh_config(
    client: &Client,
    object: &DynamicObject,
    layer: &Value,
    dry_run: bool,
) -> anyhow::Result<Outcome> {
    let api = api::api_of(client, object)?;
    let name = object.name_any();
    let failed = || format!("cannot change {}", api::describe(object));
    let Some(there) = api::look(&api, &name).await.with_context(failed)? else {
        return api::apply(client, object, dry_run).await;
    };
    let Some(spec) = layer.pointer("/meshConfig/spec") else {
        return Ok(Outcome::Unchanged);
    };
    let parameters = PatchParams {
        dry_run,
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({ "spec": spec }));
    let after = api.patch(&name, &parameters, &patch).await;
    let after = after.map_err(explain).with_context(failed)?;
    let same = after.metadata.generation == there.metadata.generation;
    Ok(if same {
        Outcome::Unchanged
    } else {
        Outcome::Changed
    })
}

fn say(object: &str, outcome: Outcome, dry_run: bool) -> io::Result<()> {
    let note = if dry_run { " (dry run)" } else { "" };
    writeln!(io::stdout(), "{object} {outcome}{note}")
}

fn what_next(namespace: &str, values: &Values, no_wait: bool) -> io::Result<()> {
    let mesh = &values.mesh_name;
    let state = if no_wait { "is on its way" } else { "is ready" };
    let mut out = io::stdout();
    writeln!(
        out,
        "\nMesh {mesh} {} {state} in namespace {namespace}.",
        manifests::VERSION
    )?;
    writeln!(
        out,
        "Add a namespace with `weir namespace add NAME`, then restart its pods."
    )
}
