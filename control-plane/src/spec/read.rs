//! One document of text in, one object and what is wrong with it out.

use std::{cell::RefCell, fmt, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};
use serde_ignored::Path;

use super::{Diagnostic, Finding, Object, ObjectName, Severity, Source, Stored, locate};
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
    /// It holds nothing the mesh is made of; a warning where it looks as if it should.
    Other(Option<Diagnostic>),
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
    let header: Header =
        serde_saphyr::from_str(&source.text).map_err(|error| Box::new(not_parsed(source, &error)))?;
    let (group, version) = header
        .api_version
        .split_once('/')
        .unwrap_or(("", &header.api_version));
    let document = match (group, version, header.kind.as_str()) {
        ("", "v1", "Namespace") => core(source, &header, "Namespace", true, Object::Namespace),
        ("", "v1", "Service") => core(source, &header, "Service", true, Object::Service),
        ("", "v1", "ServiceAccount") => core(source, &header, "ServiceAccount", true, Object::ServiceAccount),
        ("", "v1", "Pod") => core(source, &header, "Pod", false, Object::Pod),
        ("discovery.k8s.io", "v1", "EndpointSlice") => {
            core(source, &header, "EndpointSlice", false, Object::EndpointSlice)
        }
        ("access.smi-spec.io", "v1alpha3", "TrafficTarget") => policy(
            source,
            &header,
            "TrafficTarget",
            Object::TrafficTarget,
            validator::traffic_target,
        ),
        ("specs.smi-spec.io", "v1alpha4", "HTTPRouteGroup") => policy(
            source,
            &header,
            "HTTPRouteGroup",
            Object::HttpRouteGroup,
            validator::http_route_group,
        ),
        ("specs.smi-spec.io", "v1alpha4", "TCPRoute") => policy(
            source,
            &header,
            "TCPRoute",
            Object::TcpRoute,
            validator::tcp_route,
        ),
        ("split.smi-spec.io", "v1alpha2" | "v1alpha3" | "v1alpha4", "TrafficSplit") => policy(
            source,
            &header,
            "TrafficSplit",
            Object::TrafficSplit,
            validator::traffic_split,
        ),
        ("config.openservicemesh.io", "v1alpha2", "MeshConfig") => policy(
            source,
            &header,
            "MeshConfig",
            Object::MeshConfig,
            validator::mesh_config,
        ),
        _ => Document::Other(unread(source, &header, group)),
    };
    Ok(document)
}

/// Says why a document of a group that is the mesh's own is not used.
fn unread(source: &Source, header: &Header, group: &str) -> Option<Diagnostic> {
    let finding = match (group, header.kind.as_str()) {
        ("policy.openservicemesh.io", _)
        | ("config.openservicemesh.io", "MeshRootCertificate" | "ExtensionService") => Finding::warning(
            "kind",
            format!(
                "{} is not supported yet; ignored, and nothing is opened by it",
                header.kind
            ),
            "remove it, or keep it for a later version",
        ),
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
    Some(source.diagnostic(object.trim().to_owned(), finding))
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
    source: &Source,
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
        return nameless(source, key);
    }
    match serde_saphyr::from_str::<T>(&source.text) {
        Ok(value) => {
            let mut source = source.clone();
            if !keep_text {
                source.text = Arc::default();
            }
            Document::Object(key, wrap(Arc::new(Stored { value, source })), Vec::new())
        }
        Err(error) => mistyped(source, key, &error),
    }
}

/// Reads a kind of the mesh, reports fields it does not have, and validates it.
fn policy<T: DeserializeOwned>(
    source: &Source,
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
        return nameless(source, key);
    }
    let ignored = RefCell::new(Vec::new());
    let read = serde_saphyr::with_deserializer_from_str(&source.text, |deserializer| {
        serde_ignored::deserialize::<_, _, T>(deserializer, |path| ignored.borrow_mut().push(field(&path)))
    });
    let value = match read {
        Ok(value) => value,
        Err(error) => return mistyped(source, key, &error),
    };
    let unknown = ignored.into_inner().into_iter().filter(|field| !elsewhere(field));
    let findings = unknown
        .map(|field| {
            Finding::warning(
                field,
                format!("{kind} has no such field; it is ignored"),
                "correct the spelling or remove it",
            )
        })
        .chain(validate(&value));
    let diagnostics: Vec<Diagnostic> = findings
        .map(|finding| source.diagnostic(key.to_string(), finding))
        .collect();
    if diagnostics.iter().any(|found| found.severity == Severity::Error) {
        return Document::Invalid(key, diagnostics);
    }
    let source = source.clone();
    Document::Object(key, wrap(Arc::new(Stored { value, source })), diagnostics)
}

/// Fields that are read by others.
fn elsewhere(field: &str) -> bool {
    ["apiVersion", "kind", "status"].contains(&field) || field.starts_with("metadata.")
}

fn nameless(source: &Source, key: Key) -> Document {
    let finding = Finding::error(
        "metadata",
        "the object has no name; it is not used",
        "give it metadata.name",
    );
    let diagnostic = source.diagnostic(key.kind.to_owned(), finding);
    Document::Invalid(key, vec![diagnostic])
}

fn mistyped(source: &Source, key: Key, error: &serde_saphyr::Error) -> Document {
    let (line, column) = place(error).unwrap_or_else(|| locate::position(&source.text, ""));
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        object: key.to_string(),
        file: source.file.clone(),
        line: source.line + line - 1,
        column,
        field: locate::field_at(&source.text, line, column),
        message: format!("{}; the object is not used", reason(error)),
        remedy: format!(
            "write the field as {} has it; until then the last good version stays in force",
            key.kind
        ),
    };
    Document::Invalid(key, vec![diagnostic])
}

fn not_parsed(source: &Source, error: &serde_saphyr::Error) -> Diagnostic {
    let (line, column) = place(error).unwrap_or((1, 1));
    Diagnostic {
        severity: Severity::Error,
        object: String::new(),
        file: source.file.clone(),
        line: source.line + line - 1,
        column,
        field: String::new(),
        message: format!("the document does not parse: {}", reason(error)),
        remedy: "correct the file; until then everything last read from it stays in force".to_owned(),
    }
}

fn place(error: &serde_saphyr::Error) -> Option<(u32, u32)> {
    let at = error.location()?;
    let line = u32::try_from(at.line()).ok().filter(|&line| line > 0)?;
    Some((line, u32::try_from(at.column()).ok()?))
}

/// The error's first line without the place, which the diagnostic has already.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let end = line.find(" at line ").unwrap_or(line.len());
    line[..end].to_owned()
}

/// The path of an ignored field, as diagnostics write it.
fn field(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field(parent)),
        Path::Map { parent, key } => locate::join(&field(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            field(parent)
        }
    }
}
