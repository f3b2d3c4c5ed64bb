//! A namespace of a test, and objects in it.

use std::sync::Arc;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::world::World;

/// Who the tests are, to server-side apply.
pub(crate) const FIELD_MANAGER: &str = "weir-test";

/// A namespace.
pub(crate) struct Space {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
}

impl Space {
    /// A namespace of the mesh, with ServiceAccounts.
    pub(crate) async fn open(world: &Arc<World>, name: &str, accounts: &[&str]) -> anyhow::Result<Self> {
        let metadata = json!({
            "name": name,
            "labels": {"openservicemesh.io/monitored-by": "osm"},
            "annotations": {"openservicemesh.io/sidecar-injection": "enabled"},
        });
        Self::with(world, metadata, accounts).await
    }

    /// A namespace with metadata.
    pub(crate) async fn with(world: &Arc<World>, metadata: Value, accounts: &[&str]) -> anyhow::Result<Self> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": metadata}))?;
        let name = namespace.name_any();
        Api::all(world.client())
            .create(&PostParams::default(), &namespace)
            .await?;
        let space = Self {
            world: Arc::clone(world),
            name,
        };
        for account in accounts {
            let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": account}}))?;
            let api = Api::namespaced(space.client(), &space.name);
            api.create(&PostParams::default(), &account).await?;
        }
        Ok(space)
    }

    /// The administrator's client.
    pub(crate) fn client(&self) -> Client {
        self.world.client()
    }

    /// Applies YAML of one or more objects; those without a namespace get this one.
    pub(crate) async fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        for object in documents(yaml)? {
            self.put(object).await?;
        }
        Ok(())
    }

    /// Applies one object; what the API server made of it.
    pub(crate) async fn put(&self, mut object: DynamicObject) -> anyhow::Result<DynamicObject> {
        if object
            .types
            .as_ref()
            .is_none_or(|types| types.kind != "Namespace")
        {
            let namespace = &mut object.metadata.namespace;
            namespace.get_or_insert_with(|| self.name.clone());
        }
        let api = weir::api::api_of(&self.client(), &object)?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&object);
        let applied = api.patch(&object.name_any(), &parameters, &patch).await;
        applied.with_context(|| format!("cannot apply {}", weir::api::describe(&object)))
    }

    /// Applies YAML and gives back why it was refused.
    pub(crate) async fn refused(&self, yaml: &str) -> anyhow::Result<String> {
        match self.apply(yaml).await {
            Ok(()) => bail!("it was accepted:\n{yaml}"),
            Err(error) => match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) => Ok(status.message.clone()),
                _ => Err(error),
            },
        }
    }

    /// An object of this namespace.
    pub(crate) async fn get(&self, version: &str, kind: &str, name: &str) -> anyhow::Result<DynamicObject> {
        let found = self.api(version, kind)?.get(name).await;
        found.with_context(|| format!("cannot get {kind} {name}"))
    }

    /// Deletes an object of this namespace.
    pub(crate) async fn delete(&self, version: &str, kind: &str, name: &str) -> anyhow::Result<()> {
        let deleted = self
            .api(version, kind)?
            .delete(name, &DeleteParams::default())
            .await;
        deleted.with_context(|| format!("cannot delete {kind} {name}"))?;
        Ok(())
    }

    /// The objects of a kind in this namespace.
    pub(crate) fn api(&self, version: &str, kind: &str) -> anyhow::Result<Api<DynamicObject>> {
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": self.name}});
        weir::api::api_of(&self.client(), &serde_json::from_value(object)?)
    }
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
