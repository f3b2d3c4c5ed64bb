//! The text of one object: YAML as people write it, or JSON as an API server gives it.

use std::cell::RefCell;

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

use super::{Diagnostic, Finding, Severity, Source, locate};

/// A text to read, and where it stands.
#[derive(Clone, Copy)]
pub(super) enum Text<'a> {
    /// YAML; JSON is part of it.
    Yaml(&'a Source),
    /// JSON that stands in no file.
    Json(&'a Value),
}

/// Why a text is not what it should be.
pub(super) struct Mistake {
    /// Line and column within the text.
    place: Option<(u32, u32)>,
    /// The field, where it is known already.
    pub(super) field: Option<String>,
    /// What is wrong.
    pub(super) reason: String,
}

impl Text<'_> {
    /// Reads it as `T`. Fields that `T` does not have are no matter.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T, Mistake> {
        match self {
            Self::Yaml(source) => serde_saphyr::from_str(&source.text).map_err(|error| of_yaml(&error)),
            // Only a text that is wrong is read with an eye on the path.
            Self::Json(json) => T::deserialize(json).or_else(|_| self.read_noting().map(|(value, _)| value)),
        }
    }

    /// Reads it as `T`, and notes the fields that `T` does not have.
    pub(super) fn read_noting<T: DeserializeOwned>(self) -> Result<(T, Vec<String>), Mistake> {
        let ignored = RefCell::new(Vec::new());
        let note = |path: Path<'_>| ignored.borrow_mut().push(field(&path));
        let value = match self {
            Self::Yaml(source) => serde_saphyr::with_deserializer_from_str(&source.text, |yaml| {
                serde_ignored::deserialize(yaml, note)
            })
            .map_err(|error| of_yaml(&error)),
            Self::Json(json) => {
                let mut track = serde_path_to_error::Track::new();
                let tracked = serde_path_to_error::Deserializer::new(json, &mut track);
                serde_ignored::deserialize(tracked, note).map_err(|error| Mistake {
                    place: None,
                    field: Some(track.path().to_string().trim_matches('.').to_owned()),
                    reason: reason(&error.to_string()),
                })
            }
        };
        value.map(|value| (value, ignored.into_inner()))
    }

    /// Where it stands, as far as is worth keeping: a copy of it where fields are to be located later.
    pub(super) fn source(self, keep_text: bool) -> Source {
        match self {
            Self::Yaml(source) if keep_text => source.clone(),
            Self::Yaml(source) => Source {
                file: source.file.clone(),
                line: source.line,
                text: Default::default(),
            },
            Self::Json(_) => Source::default(),
        }
    }

    /// A diagnostic about a field.
    pub(super) fn diagnostic(self, object: String, finding: Finding) -> Diagnostic {
        match self {
            Self::Yaml(source) => source.diagnostic(object, finding),
            Self::Json(_) => Source::default().diagnostic(object, finding),
        }
    }

    /// A diagnostic about a mistake in it.
    pub(super) fn mistaken(self, object: String, mistake: Mistake, remedy: String) -> Diagnostic {
        let (file, line, column, field) = match self {
            Self::Yaml(source) => {
                let (line, column) = mistake
                    .place
                    .unwrap_or_else(|| locate::position(&source.text, ""));
                let field = locate::field_at(&source.text, line, column);
                (source.file.clone(), source.line + line - 1, column, field)
            }
            Self::Json(_) => Default::default(),
        };
        Diagnostic {
            severity: Severity::Error,
            object,
            file,
            line,
            column,
            field: mistake.field.unwrap_or(field),
            message: mistake.reason,
            remedy,
        }
    }
}

fn of_yaml(error: &serde_saphyr::Error) -> Mistake {
    let place = error.location().and_then(|at| {
        let line = u32::try_from(at.line()).ok().filter(|&line| line > 0)?;
        Some((line, u32::try_from(at.column()).ok()?))
    });
    Mistake {
        place,
        field: None,
        reason: reason(&error.without_snippet().to_string()),
    }
}

/// The error's first line without the place, which the diagnostic has already.
fn reason(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use crate::spec::*;

    #[test]
    fn an_object_of_a_cluster_has_fields_but_no_place() {
        let target = |rules: serde_json::Value| {
            serde_json::json!({
                "metadata": { "name": "buy", "namespace": "shop", "generation": 3, "managedFields": [] },
                "spec": {
                    "destination": { "kind": "ServiceAccount", "name": "shop", "namespace": "shop" },
                    "sources": [{ "kind": "ServiceAccount", "name": "buyer", "namespace": "buyer" }],
                    "rules": rules,
                },
                "status": { "conditions": [] },
            })
        };
        let read = |object| read_json("access.smi-spec.io/v1alpha3", "TrafficTarget", &object);
        let rule = serde_json::json!([{ "kind": "HTTPRouteGroup", "name": "routes", "matchs": ["a"] }]);
        let Document::Object(key, Object::TrafficTarget(target_read), found) = read(target(rule)) else {
            panic!("not read");
        };
        assert_eq!(key.to_string(), "TrafficTarget shop/buy");
        assert_eq!(target_read.source, Source::default());
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "warning: TrafficTarget shop/buy: spec.rules[0].matchs: TrafficTarget has no such field; it is ignored; \
              correct the spelling or remove it"
            ]
        );
        for (wrong, field) in [
            (serde_json::json!(3), "spec.rules"),
            (serde_json::json!([{ "kind": "TCPRoute" }]), "spec.rules[0]"),
        ] {
            let Document::Invalid(_, found) = read(target(wrong)) else {
                panic!("read");
            };
            assert_eq!((found[0].line, found[0].field.as_str()), (0, field));
        }
    }
}
