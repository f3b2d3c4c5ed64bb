//! Finds the pods in manifests of any workload kind and injects them.

use std::{collections::BTreeMap, fmt};

use anyhow::Context;
use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use serde_json::Value;
use weir_controller::{
    injector::{self, Decision, NamespaceMeta, Settings},
    spec::has_sidecar,
};

use crate::namespace::{INJECTION, MONITORED_BY};

/// Where a workload keeps its pod template.
const TEMPLATES: [&str; 2] = ["/spec/template", "/spec/jobTemplate/spec/template"];

/// What became of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has a sidecar now.
    Injected,
    /// It had one.
    Already,
    /// It does without, and why.
    Skipped(&'static str),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Injected => f.write_str("injected"),
            Self::Already => f.write_str("skipped: it has a sidecar already"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// What workloads are injected with.
pub(super) struct Scope<'a> {
    settings: &'a Settings,
    default_namespace: &'a str,
    namespaces: BTreeMap<String, NamespaceMeta>,
}

impl<'a> Scope<'a> {
    /// Takes the annotations of Namespaces from among the manifests.
    pub(super) fn new<'d>(
        default_namespace: &'a str,
        settings: &'a Settings,
        documents: impl Iterator<Item = &'d Value>,
    ) -> Self {
        let mut namespaces = BTreeMap::new();
        for document in documents.filter(|document| document["kind"] == "Namespace") {
            if let Ok(namespace) = serde_json::from_value::<Namespace>(document.clone()) {
                let meta = NamespaceMeta::of(&namespace);
                namespaces.insert(meta.name.clone(), meta);
            }
        }
        Self {
            settings,
            default_namespace,
            namespaces,
        }
    }

    /// Injects every workload of a manifest, the items of Lists included. Tells what became of each.
    ///
    /// # Errors
    /// When a pod is not one, or the injector refuses it.
    pub(super) fn inject(&self, object: &mut Value) -> anyhow::Result<Vec<(String, Outcome)>> {
        if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
            let outcomes: anyhow::Result<Vec<_>> = items.iter_mut().map(|item| self.inject(item)).collect();
            return Ok(outcomes?.into_iter().flatten().collect());
        }
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let kind = text("/kind").unwrap_or_default();
        let name = text("/metadata/name")
            .or_else(|| text("/metadata/generateName"))
            .unwrap_or_default();
        let namespace = text("/metadata/namespace").unwrap_or_else(|| self.default_namespace.to_owned());
        let Some(path) = pod_path(object, &kind) else {
            return Ok(Vec::new());
        };
        let owner = (kind != "Pod").then(|| OwnerReference {
            kind: kind.clone(),
            name: name.clone(),
            controller: Some(true),
            ..OwnerReference::default()
        });
        let title = format!("{kind} {namespace}/{name}");
        let Some(pod) = object.pointer_mut(path) else {
            return Ok(Vec::new());
        };
        let outcome = self
            .inject_pod(pod, owner, &namespace)
            .with_context(|| title.clone())?;
        Ok(vec![(title, outcome)])
    }

    fn inject_pod(
        &self,
        template: &mut Value,
        owner: Option<OwnerReference>,
        namespace: &str,
    ) -> anyhow::Result<Outcome> {
        let mut pod: Pod = serde_json::from_value(template.clone()).context("the pod is not one")?;
        let owned = owner.is_some();
        if owned {
            pod.metadata.owner_references = owner.map(|owner| vec![owner]);
        }
        if has_sidecar(&pod) {
            return Ok(Outcome::Already);
        }
        let namespace = self.namespace(namespace);
        match injector::decide(&pod, &namespace, self.settings)? {
            Decision::Inject => {}
            Decision::HostNetwork => return Ok(Outcome::Skipped("it shares the node's network")),
            Decision::NotWanted => return Ok(Outcome::Skipped("an annotation asks for no sidecar")),
            Decision::OutsideMesh => return Ok(Outcome::Skipped("its namespace never has sidecars")),
        }
        let mut injected = injector::inject(pod, &namespace, self.settings)?;
        if owned {
            injected.metadata.owner_references = None;
        }
        let injected = serde_json::to_value(injected)?;
        // The template keeps what is no part of a Pod as the API knows it: apiVersion, kind and unknown fields.
        for field in ["metadata", "spec"] {
            if let (Some(value), Some(template)) = (injected.get(field), template.as_object_mut()) {
                template.insert(field.to_owned(), value.clone());
            }
        }
        Ok(Outcome::Injected)
    }

    /// The namespace as the mesh would have it. Whoever runs the command wants sidecars, so an annotation of the
    /// namespace is not needed; one that says no counts.
    fn namespace(&self, name: &str) -> NamespaceMeta {
        let mut namespace = self.namespaces.get(name).cloned().unwrap_or_default();
        name.clone_into(&mut namespace.name);
        namespace
            .labels
            .insert(MONITORED_BY.to_owned(), self.settings.mesh_name.clone());
        let annotations = &mut namespace.annotations;
        annotations
            .entry(INJECTION.to_owned())
            .or_insert_with(|| "enabled".to_owned());
        namespace
    }
}

/// Where the pod is in an object of this kind.
fn pod_path(object: &Value, kind: &str) -> Option<&'static str> {
    let holds_pod = |path: &&str| {
        let containers = object
            .pointer(path)
            .and_then(|pod| pod.pointer("/spec/containers"));
        containers.is_some_and(Value::is_array)
    };
    match kind {
        "Pod" => Some("").filter(holds_pod),
        _ => TEMPLATES.into_iter().find(|path| holds_pod(path)),
    }
}
