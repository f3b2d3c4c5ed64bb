//! One document of text in, one object and what is wrong with it out.

use std::{fmt, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Diagnostic, Finding, Object, ObjectName, Severity, Source, Stored,
    input::{self, Input, Mistake},
};
use crate::validator;

/// What makes two objects the same object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Kind.
    pub kind: &'static str,
    /// Namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A document that was read.
#[derive(Clone, Debug)]
pub enum Document {
    /// It holds nothing the mesh is made of; warnings where it looks as if it should.
    Other(Vec<Diagnostic>),
    /// An object, and warnings about it.
    Object(Key, Object, Vec<Diagnostic>),
    /// An object that is not to be used: at least one of the diagnostics is an error.
    Invalid(Key, Vec<Diagnostic>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: HeaderMeta,
}

#[derive(Default, Deserialize)]
struct OnlyMeta {
    #[serde(default)]
    metadata: HeaderMeta,
}

#[derive(Default, Deserialize)]
struct HeaderMeta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

/// Reads one document.
///
/// # Errors
/// When the text is not YAML or JSON. An object that is not as its kind demands is not an error but
/// [`Document::Invalid`].
pub fn read(source: &Source) -> Result<Document, Box<Diagnostic>> {
    let object = input::parse(source)?;
    let input = Input::of_file(&object, source);
    match input.read::<Header>() {
        Ok(header) => Ok(document(input, &header)),
        Err(mistake) => Err(input::unparsed(
            source,
            source.locate(&mistake.field),
            &mistake.reason,
        )),
    }
}

/// Reads an object as an API server gives it. Its type is told: the items of a list do not say. The diagnostics have
/// no place.
#[must_use]
pub fn read_json(api_version: &str, kind: &str, object: &Value) -> Document {
    let input = Input::of_server(object);
    let header = Header {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        metadata: input.read::<OnlyMeta>().unwrap_or_default().metadata,
    };
    document(input, &header)
}

fn document(input: Input<'_>, header: &Header) -> Document {
    let (group, version) = header
        .api_version
        .split_once('/')
        .unwrap_or(("", &header.api_version));
    match (group, version, header.kind.as_str()) {
        ("", "v1", "Namespace") => core(input, header, "Namespace", true, Object::Namespace),
        ("", "v1", "Service") => core(input, header, "Service", true, Object::Service),
        ("", "v1", "ServiceAccount") => core(input, header, "ServiceAccount", true, Object::ServiceAccount),
        ("", "v1", "Pod") => core(input, header, "Pod", false, Object::Pod),
        ("discovery.k8s.io", "v1", "EndpointSlice") => {
            core(input, header, "EndpointSlice", false, Object::EndpointSlice)
        }
        ("access.smi-spec.io", "v1alpha3", "TrafficTarget") => policy(
            input,
            header,
            "TrafficTarget",
            Object::TrafficTarget,
            validator::traffic_target,
        ),
        ("specs.smi-spec.io", "v1alpha4", "HTTPRouteGroup") => policy(
            input,
            header,
            "HTTPRouteGroup",
            Object::HttpRouteGroup,
            validator::http_route_group,
        ),
        ("specs.smi-spec.io", "v1alpha4", "TCPRoute") => {
            policy(input, header, "TCPRoute", Object::TcpRoute, validator::tcp_route)
        }
        ("split.smi-spec.io", "v1alpha2" | "v1alpha3" | "v1alpha4", "TrafficSplit") => policy(
            input,
            header,
            "TrafficSplit",
            Object::TrafficSplit,
            validator::traffic_split,
        ),
        ("config.openservicemesh.io", "v1alpha1" | "v1alpha2", "MeshConfig") => policy(
            input,
            header,
            "MeshConfig",
            Object::MeshConfig,
            validator::mesh_config,
        ),
        ("policy.openservicemesh.io", "v1alpha1", "Egress") => {
            not_followed(input, header, "Egress", validator::egress)
        }
        ("policy.openservicemesh.io", "v1alpha1", "IngressBackend") => {
            not_followed(input, header, "IngressBackend", validator::ingress_backend)
        }
        ("policy.openservicemesh.io", "v1alpha1", "Retry") => {
            not_followed(input, header, "Retry", validator::retry)
        }
        ("policy.openservicemesh.io", "v1alpha1", "UpstreamTrafficSetting") => not_followed(
            input,
            header,
            "UpstreamTrafficSetting",
            validator::upstream_traffic_setting,
        ),
        _ => Document::Other(unread(input, header, group).into_iter().collect()),
    }
}

/// Says why a document of a group that is the mesh's own is not used.
fn unread(input: Input<'_>, header: &Header, group: &str) -> Option<Diagnostic> {
    let finding = match (group, header.kind.as_str()) {
        ("config.openservicemesh.io", "MeshRootCertificate" | "ExtensionService") => {
            unsupported(&header.kind)
        }
        ("policy.openservicemesh.io", "Egress" | "IngressBackend" | "Retry" | "UpstreamTrafficSetting") => {
            version(header, "policy.openservicemesh.io/v1alpha1")
        }
        ("policy.openservicemesh.io", _) => unknown_kind(header),
        ("access.smi-spec.io", "TrafficTarget") => version(header, "access.smi-spec.io/v1alpha3"),
        ("specs.smi-spec.io", "HTTPRouteGroup" | "TCPRoute") => version(header, "specs.smi-spec.io/v1alpha4"),
        ("split.smi-spec.io", "TrafficSplit") => version(header, "split.smi-spec.io/v1alpha2"),
        ("config.openservicemesh.io", "MeshConfig") => version(header, "config.openservicemesh.io/v1alpha2"),
        ("config.openservicemesh.io", _) => unknown_kind(header),
        (group, _) if group.ends_with("smi-spec.io") => unknown_kind(header),
        ("", "List") => Finding::warning(
            "kind",
            "a List is read in block style only; the items of this one are ignored",
            "write `items:` and each item, begun by a dash, on lines of their own, as kubectl get -o yaml does",
        ),
        ("", "") => Finding::warning(
            "kind",
            "the document has no kind; ignored",
            "give it apiVersion and kind, or move it elsewhere",
        ),
        _ => return None,
    };
    let object = format!("{} {}", header.kind, name(header, ""));
    Some(input.diagnostic(object.trim().to_owned(), finding))
}

fn unsupported(kind: &str) -> Finding {
    Finding::warning(
        "kind",
        format!("{kind} is not supported yet; ignored, and nothing is opened by it"),
        "remove it, or keep it for a later version",
    )
}

fn version(header: &Header, served: &str) -> Finding {
    Finding::error(
        "apiVersion",
        format!(
            "version {} of {} is not served; ignored",
            header.api_version, header.kind
        ),
        format!("write it as {served}"),
    )
}

fn unknown_kind(header: &Header) -> Finding {
    Finding::warning(
        "kind",
        format!("{} has no kind {}; ignored", header.api_version, header.kind),
        "correct the spelling",
    )
}

fn name(header: &Header, default_namespace: &str) -> ObjectName {
    ObjectName::new(
        header.metadata.namespace.as_deref().unwrap_or(default_namespace),
        &header.metadata.name,
    )
}

/// Reads a kind of Kubernetes. Fields it does not know are no matter: Kubernetes has checked them.
fn core<T: DeserializeOwned>(
    input: Input<'_>,
    header: &Header,
    kind: &'static str,
    keep_text: bool,
    wrap: fn(Arc<Stored<T>>) -> Object,
) -> Document {
    let default_namespace = if kind == "Namespace" { "" } else { "default" };
    let key = Key {
        kind,
        name: name(header, default_namespace),
    };
    if key.name.name.is_empty() {
        return nameless(input, key);
    }
    match input.read::<T>() {
        Ok(value) => {
            let source = input.source(keep_text);
            Document::Object(key, wrap(Arc::new(Stored { value, source })), Vec::new())
        }
        Err(mistake) => mistyped(input, key, mistake),
    }
}

/// Reads a kind of the mesh, reports fields it does not have, and validates it.
fn policy<T: DeserializeOwned>(
    input: Input<'_>,
    header: &Header,
    kind: &'static str,
    wrap: fn(Arc<Stored<T>>) -> Object,
    validate: fn(&T) -> Vec<Finding>,
) -> Document {
    let key = Key {
        kind,
        name: name(header, "default"),
    };
    if key.name.name.is_empty() {
        return nameless(input, key);
    }
    let (value, diagnostics) = match checked(input, &key, validate) {
        Ok(read) => read,
        Err(mistake) => return mistyped(input, key, mistake),
    };
    if diagnostics.iter().any(|found| found.severity == Severity::Error) {
        return Document::Invalid(key, diagnostics);
    }
    let source = input.source(true);
    Document::Object(key, wrap(Arc::new(Stored { value, source })), diagnostics)
}

/// Reads a kind that the mesh does not follow: what is wrong with it is told, and that it is ignored.
fn not_followed<T: DeserializeOwned>(
    input: Input<'_>,
    header: &Header,
    kind: &'static str,
    validate: fn(&T) -> Vec<Finding>,
) -> Document {
    let key = Key {
        kind,
        name: name(header, "default"),
    };
    let mut diagnostics = match checked(input, &key, validate) {
        Ok((_, diagnostics)) => diagnostics,
        Err(mistake) => return mistyped(input, key, mistake),
    };
    diagnostics.push(input.diagnostic(key.to_string(), unsupported(kind)));
    match diagnostics.iter().any(|found| found.severity == Severity::Error) {
        true => Document::Invalid(key, diagnostics),
        false => Document::Other(diagnostics),
    }
}

/// Reads a value, and says what is wrong with it: fields that its kind does not have, and what the validator finds.
fn checked<T: DeserializeOwned>(
    input: Input<'_>,
    key: &Key,
    validate: fn(&T) -> Vec<Finding>,
) -> Result<(T, Vec<Diagnostic>), Mistake> {
    let (value, ignored) = input.read_noting::<T>()?;
    let unknown = ignored.into_iter().filter(|field| !elsewhere(field));
    let findings = unknown
        .map(|field| {
            Finding::warning(
                field,
                format!("{} has no such field; it is ignored", key.kind),
                "correct the spelling or remove it",
            )
        })
        .chain(validate(&value));
    let diagnostics = findings
        .map(|finding| input.diagnostic(key.to_string(), finding))
        .collect();
    Ok((value, diagnostics))
}

/// Fields that are read by others.
fn elsewhere(field: &str) -> bool {
    ["apiVersion", "kind", "status"].contains(&field) || field.starts_with("metadata.")
}

fn nameless(input: Input<'_>, key: Key) -> Document {
    let finding = Finding::error(
        "metadata",
        "the object has no name; it is not used",
        "give it metadata.name",
    );
    let diagnostic = input.diagnostic(key.kind.to_owned(), finding);
    Document::Invalid(key, vec![diagnostic])
}

fn mistyped(input: Input<'_>, key: Key, mistake: Mistake) -> Document {
    let finding = Finding::error(
        mistake.field,
        format!("{}; the object is not used", mistake.reason),
        format!(
            "write the field as {} has it; until then the last good version stays in force",
            key.kind
        ),
    );
    let diagnostic = input.diagnostic(key.to_string(), finding);
    Document::Invalid(key, vec![diagnostic])
}
