//! One object as it is given: in YAML as people write it, or in JSON by an API server.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

use super::{Diagnostic, Finding, Source, locate};

/// One object, and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    object: &'a Value,
    /// The YAML that it was read from; `None`: it stands in no file.
    source: Option<&'a Source>,
}

/// Why a text is not what it should be.
pub(super) struct Mistake {
    /// The field.
    pub(super) field: String,
    /// What is wrong.
    pub(super) reason: String,
}

/// What a YAML document says; JSON is part of that. The kinds are read from this, and not from YAML each: they read an
/// object of a file as they read one of an API server.
///
/// # Errors
/// When it is no YAML.
pub(super) fn parse(source: &Source) -> Result<Value, Box<Diagnostic>> {
    serde_saphyr::from_str(&source.text).map_err(|error| {
        let place = error.location().and_then(|at| {
            let line = u32::try_from(at.line()).ok().filter(|&line| line > 0)?;
            Some((source.line + line - 1, u32::try_from(at.column()).ok()?))
        });
        let place = place.unwrap_or_else(|| source.locate(""));
        unparsed(source, place, &error.without_snippet().to_string())
    })
}

/// Says that a document is no object, and where.
pub(super) fn unparsed(source: &Source, (line, column): (u32, u32), error: &str) -> Box<Diagnostic> {
    let remedy = "correct the file; until then everything last read from it stays in force";
    let message = format!("the document does not parse: {}", reason(error));
    Box::new(Diagnostic {
        line,
        column,
        ..source.diagnostic(String::new(), Finding::error("", message, remedy))
    })
}

impl<'a> Input<'a> {
    /// An object as an API server gives it.
    pub(super) fn of_server(object: &'a Value) -> Self {
        let source = None;
        Self { object, source }
    }

    /// An object that was read from here.
    pub(super) fn of_file(object: &'a Value, source: &'a Source) -> Self {
        let source = Some(source);
        Self { object, source }
    }

    /// Reads it as `T`. Fields that `T` does not have are no matter.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T, Mistake> {
        // Only an object that is wrong is read with an eye on the path.
        T::deserialize(self.object).or_else(|_| self.read_noting().map(|(value, _)| value))
    }

    /// Reads it as `T`, and notes the fields that `T` does not have.
    pub(super) fn read_noting<T: DeserializeOwned>(self) -> Result<(T, Vec<String>), Mistake> {
        let mut ignored = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(self.object, &mut track);
        let read = serde_ignored::deserialize(tracked, |path: Path<'_>| ignored.push(field(&path)));
        let value = read.map_err(|error| Mistake {
            field: track.path().to_string().trim_matches('.').to_owned(),
            reason: reason(&error.to_string()),
        });
        value.map(|value| (value, ignored))
    }

    /// Where it stands, as far as is worth keeping: a copy of it where fields are to be located later.
    pub(super) fn source(self, keep_text: bool) -> Source {
        match self.source {
            Some(source) if keep_text => source.clone(),
            Some(source) => Source {
                file: source.file.clone(),
                line: source.line,
                text: Default::default(),
            },
            None => Source::default(),
        }
    }

    /// A diagnostic about a field.
    pub(super) fn diagnostic(self, object: String, finding: Finding) -> Diagnostic {
        match self.source {
            Some(source) => source.diagnostic(object, finding),
            None => Source::default().diagnostic(object, finding),
        }
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
