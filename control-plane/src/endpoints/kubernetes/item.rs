//! An object as the API server gave it, of whatever kind and however malformed: one that cannot be read must not
//! spoil the list it is in.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope},
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Revision, kinds::Kind, trim};
use crate::spec::{self, Diagnostic, Document, Object, ObjectName};

/// An object, unread.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Namespace, name and resource version; no more is needed.
    metadata: ObjectMeta,
    object: Value,
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        let metadata = metadata.map(|metadata| {
            metadata.remove("managedFields");
            let text = |field: &str| metadata.get(field).and_then(Value::as_str).map(str::to_owned);
            ObjectMeta {
                namespace: text("namespace"),
                name: text("name"),
                resource_version: text("resourceVersion"),
                ..ObjectMeta::default()
            }
        });
        Ok(Self {
            metadata: metadata.unwrap_or_default(),
            object,
        })
    }
}

impl Resource for Item {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// An object, read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) name: ObjectName,
    /// `None`: it is not to be used.
    pub(super) object: Option<Object>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Of a policy.
    pub(super) revision: Option<Revision>,
}

impl Item {
    /// Namespace and name.
    pub(super) fn name(&self) -> ObjectName {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        ObjectName {
            namespace: text(&self.metadata.namespace),
            name: text(&self.metadata.name),
        }
    }

    /// Reads it, whole or without what nobody watches for.
    pub(super) fn read(&self, kind: &'static Kind, whole: bool) -> Read {
        let (object, diagnostics) = match spec::read_json(kind.api_version, kind.name, &self.object) {
            Document::Object(_, object, diagnostics) => (Some(object), diagnostics),
            Document::Invalid(_, diagnostics) => (None, diagnostics),
            Document::Other(diagnostic) => (None, diagnostic.into_iter().collect()),
        };
        Read {
            name: self.name(),
            object: object.map(|object| if whole { object } else { trim::object(object) }),
            diagnostics,
            revision: (!kind.built_in).then(|| self.revision(kind)),
        }
    }

    fn revision(&self, kind: &'static Kind) -> Revision {
        let at = |path: &str| self.object.pointer(path);
        let conditions = at("/status/conditions").and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        let accepted = conditions.find(|condition| condition["type"] == "Accepted");
        Revision {
            api_version: kind.api_version,
            plural: kind.plural,
            uid: at("/metadata/uid")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            generation: at("/metadata/generation")
                .and_then(Value::as_i64)
                .unwrap_or_default(),
            accepted: accepted.and_then(|accepted| Condition::deserialize(accepted).ok()),
        }
    }
}
