//! The validator, asked by the API server when an object that configures the mesh is written.

use std::sync::Arc;

use futures::future::{self, BoxFuture};
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, Operation},
};
use serde_json::Value;
use tokio::sync::watch;
use tracing::info;

use crate::{
    admission::Reviewer,
    endpoints::Objects,
    spec::{self, Diagnostic, Document, ObjectName, Severity, is_monitored},
};

/// The API server shows no more of a warning.
const WARNING: usize = 256;

/// Denies objects that would be ignored or misread, and warns of what is probably not meant so.
pub struct Webhook {
    mesh_name: String,
    mesh_namespace: String,
    objects: watch::Receiver<Arc<Objects>>,
}

impl Webhook {
    /// Judges objects of the namespaces that belong to this mesh.
    #[must_use]
    pub fn new(mesh_name: &str, mesh_namespace: &str, objects: watch::Receiver<Arc<Objects>>) -> Self {
        Self {
            mesh_name: mesh_name.to_owned(),
            mesh_namespace: mesh_namespace.to_owned(),
            objects,
        }
    }

    fn judge(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let answer = AdmissionResponse::from(request);
        let (Some(object), true) = (&request.object, self.is_ours(request)) else {
            return answer;
        };
        if untouched(request) {
            return answer;
        }
        let found = match serde_json::to_value(object) {
            Ok(json) => findings(request, &json),
            Err(error) => return answer.deny(format!("weir: the object cannot be read: {error}")),
        };
        let (errors, warnings): (Vec<_>, Vec<_>) = found
            .iter()
            .partition(|finding| finding.severity == Severity::Error);
        if errors.is_empty() {
            return warn(answer, &warnings);
        }
        let why: Vec<_> = errors.iter().map(|finding| line(finding)).collect();
        let why = why.join("\n");
        info!(
            kind = request.kind.kind,
            namespace = request.namespace,
            name = request.name,
            why,
            "refused an object"
        );
        answer.deny(format!("weir: {why}"))
    }

    /// Whether the object's namespace is the mesh's: others may belong to another mesh.
    fn is_ours(&self, request: &AdmissionRequest<DynamicObject>) -> bool {
        let namespace = request.namespace.as_deref().unwrap_or_default();
        if namespace == self.mesh_namespace {
            return true;
        }
        let objects = self.objects.borrow();
        let known = objects.namespaces.get(&ObjectName::new("", namespace));
        let labels = known.and_then(|namespace| namespace.value.metadata.labels.as_ref());
        labels.is_some_and(|labels| is_monitored(labels, &self.mesh_name))
    }
}

impl Reviewer for Webhook {
    fn path(&self) -> &'static str {
        "/validate"
    }

    fn review(&self, request: AdmissionRequest<DynamicObject>) -> BoxFuture<'_, AdmissionResponse> {
        Box::pin(future::ready(self.judge(&request)))
    }
}

/// Whether an update leaves the specification as it was. An object that was let in before there was a validator must
/// still lose its finalizers.
fn untouched(request: &AdmissionRequest<DynamicObject>) -> bool {
    let spec =
        |object: &Option<DynamicObject>| object.as_ref().map(|object| object.data.get("spec").cloned());
    match request.operation {
        Operation::Update => {
            spec(&request.object) == spec(&request.old_object) && request.old_object.is_some()
        }
        Operation::Delete | Operation::Connect => true,
        Operation::Create => false,
    }
}

fn findings(request: &AdmissionRequest<DynamicObject>, object: &Value) -> Vec<Diagnostic> {
    let kind = &request.kind;
    let api_version = match kind.group.as_str() {
        "" => kind.version.clone(),
        group => format!("{group}/{}", kind.version),
    };
    match spec::read_json(&api_version, &kind.kind, object) {
        Document::Object(_, _, findings) | Document::Invalid(_, findings) => findings,
        Document::Other(finding) => finding.into_iter().collect(),
    }
}

fn warn(mut answer: AdmissionResponse, warnings: &[&Diagnostic]) -> AdmissionResponse {
    let texts = warnings.iter().map(|finding| shorten(line(finding)));
    answer.warnings = Some(texts.collect()).filter(|texts: &Vec<_>| !texts.is_empty());
    answer
}

fn line(finding: &Diagnostic) -> String {
    let Diagnostic { message, remedy, .. } = finding;
    match finding.field.as_str() {
        "" => format!("{message}; {remedy}"),
        field => format!("{field}: {message}; {remedy}"),
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(WARNING) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
