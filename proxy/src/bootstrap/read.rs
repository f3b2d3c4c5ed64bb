//! YAML or JSON text → a message, by protobuf's JSON mapping; an error names the field.

use std::path::Path;

use prost_reflect::{DynamicMessage, Kind, MessageDescriptor};
use serde_json::{Map, Value};
use weir_xds::TypeUrl;

use super::{BootstrapError, Message, outside};
use crate::xds::descriptors;

/// Reads a file.
pub(super) fn file(path: &Path) -> Result<Value, BootstrapError> {
    let content = std::fs::read_to_string(path).map_err(|source| BootstrapError::Read {
        path: path.to_owned(),
        source,
    })?;
    text(&content, &path.display().to_string())
}

/// Reads YAML, which JSON is a part of.
pub(super) fn text(text: &str, origin: &str) -> Result<Value, BootstrapError> {
    serde_saphyr::from_str(text).map_err(|error| BootstrapError::Syntax {
        origin: origin.to_owned(),
        reason: error.to_string(),
    })
}

/// Merges as Envoy merges messages: objects field by field, lists one after the other, else the later value.
pub(super) fn merge(below: &mut Value, over: Value) {
    match (below, over) {
        (Value::Object(below), Value::Object(over)) => {
            for (key, value) in over {
                match below.get_mut(&key) {
                    Some(there) => merge(there, value),
                    None => {
                        below.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(below), Value::Array(over)) => below.extend(over),
        (_, Value::Null) => {}
        (below, over) => *below = over,
    }
}

/// The bootstrap message, and the paths of what was left out. With `allow_unknown` that is all that is outside
/// the subset; else only what is known to be harmless, and the rest is refused.
pub(super) fn message(
    mut value: Value,
    allow_unknown: bool,
) -> Result<(Message, Vec<String>), BootstrapError> {
    let origin = "bootstrap";
    let descriptor = descriptor::<Message>(origin)?;
    let left_out = outside::remove(&descriptor, &mut value, allow_unknown);
    Ok((described(descriptor, value, origin)?, left_out))
}

/// Any message of the contract.
pub(super) fn typed<M: TypeUrl>(value: Value, origin: &str) -> Result<M, BootstrapError> {
    described(descriptor::<M>(origin)?, value, origin)
}

fn descriptor<M: TypeUrl>(origin: &str) -> Result<MessageDescriptor, BootstrapError> {
    let name = M::full_name();
    let found = descriptors().and_then(|pool| pool.get_message_by_name(&name));
    found.ok_or_else(|| unreadable(origin, "", format!("{name} has no descriptor")))
}

/// A message of this descriptor.
fn described<M: TypeUrl>(
    descriptor: MessageDescriptor,
    value: Value,
    origin: &str,
) -> Result<M, BootstrapError> {
    let value = if value.is_null() {
        Value::Object(Map::new())
    } else {
        value
    };
    check(&descriptor, &value, String::new())
        .map_err(|wrong| unreadable(origin, &wrong.path, wrong.reason))?;
    DynamicMessage::deserialize(descriptor, &value)
        .map_err(|reason| unreadable(origin, "(somewhere)", reason.to_string()))?
        .transcode_to()
        .map_err(|reason| unreadable(origin, "(somewhere)", reason.to_string()))
}

fn unreadable(origin: &str, path: &str, reason: String) -> BootstrapError {
    BootstrapError::Field {
        origin: origin.to_owned(),
        path: path.to_owned(),
        reason,
    }
}

struct Wrong {
    path: String,
    reason: String,
}

fn wrong<T>(path: String, reason: impl Into<String>) -> Result<T, Wrong> {
    let path = if path.is_empty() { "(top)".to_owned() } else { path };
    Err(Wrong {
        path,
        reason: reason.into(),
    })
}

/// Finds the field that does not fit, which the deserializer alone does not name.
fn check(descriptor: &MessageDescriptor, value: &Value, path: String) -> Result<(), Wrong> {
    if descriptor.full_name() == "google.protobuf.Any" {
        return check_any(descriptor, value, path);
    }
    if descriptor.full_name().starts_with("google.protobuf.") {
        return whole(descriptor, value, path);
    }
    let Value::Object(fields) = value else {
        return wrong(path, format!("expected an object, found {value}"));
    };
    for (key, value) in fields {
        check_field(descriptor, key, value, &path)?;
    }
    Ok(())
}

fn check_field(descriptor: &MessageDescriptor, key: &str, value: &Value, path: &str) -> Result<(), Wrong> {
    let path = if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    };
    let field = descriptor
        .get_field_by_json_name(key)
        .or_else(|| descriptor.get_field_by_name(key));
    let Some(field) = field else {
        return wrong(
            path,
            "this proxy has no such field: remove it, check its spelling, or start with --allow-unknown-static-fields \
             to have it left out",
        );
    };
    if value.is_null() {
        return Ok(());
    }
    let kind = if field.is_map() {
        match field.kind() {
            Kind::Message(entry) => entry.map_entry_value_field().kind(),
            other => other,
        }
    } else {
        field.kind()
    };
    match (kind, value) {
        (Kind::Message(inner), Value::Object(entries)) if field.is_map() => entries
            .iter()
            .try_for_each(|(key, value)| check(&inner, value, format!("{path}[{key:?}]"))),
        (Kind::Message(inner), Value::Array(items)) if field.is_list() => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| check(&inner, item, format!("{path}[{index}]"))),
        (Kind::Message(inner), _) if !field.is_list() && !field.is_map() => check(&inner, value, path),
        _ => {
            let alone = Value::Object(Map::from_iter([(key.to_owned(), value.clone())]));
            whole(descriptor, &alone, path)
        }
    }
}

fn check_any(any: &MessageDescriptor, value: &Value, path: String) -> Result<(), Wrong> {
    let Value::Object(fields) = value else {
        return wrong(path, "expected an object with \"@type\"");
    };
    let Some(Value::String(url)) = fields.get("@type") else {
        return wrong(path, "\"@type\" is missing");
    };
    let name = url.rsplit('/').next().unwrap_or_default();
    let Some(descriptor) = any.parent_pool().get_message_by_name(name) else {
        return wrong(path, format!("\"@type\" {url:?} is not known here"));
    };
    if descriptor.full_name().starts_with("google.protobuf.") {
        return Ok(());
    }
    for (key, value) in fields.iter().filter(|(key, _)| *key != "@type") {
        check_field(&descriptor, key, value, &path)?;
    }
    Ok(())
}

fn whole(descriptor: &MessageDescriptor, value: &Value, path: String) -> Result<(), Wrong> {
    match DynamicMessage::deserialize(descriptor.clone(), value) {
        Ok(_) => Ok(()),
        Err(error) => wrong(path, error.to_string()),
    }
}
