//! What the store holds, for people: one entry per resource, and its message as protobuf JSON with the
//! field names of the contract.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::Any;
use serde_json::{Value, json};
use weir_xds::ResourceType;

/// Whose word on a resource counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The proxy's own or the bootstrap's.
    Local,
    /// The bootstrap's until the server speaks.
    Seed,
    /// The server's.
    Stream,
}

/// What is known of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summary {
    /// Asked for, no answer yet.
    Pending,
    /// The server says that there is none.
    Absent,
    /// There is one.
    Ready,
}

/// One resource of [`Store::dump`](super::Store::dump).
#[derive(Clone, Debug)]
pub struct Dumped {
    /// Its type.
    pub kind: ResourceType,
    /// Its name.
    pub name: Arc<str>,
    /// Whose word counts.
    pub owner: Owner,
    /// What is known.
    pub state: Summary,
    /// The server's version of the one in force; empty for static ones.
    pub version: String,
    /// When it was last put in.
    pub updated: Option<SystemTime>,
    /// Why the server's latest version was refused, if it was.
    pub error: Option<String>,
    /// The message in force; `None` where it must not be shown.
    pub message: Option<Arc<Any>>,
    pub(super) descriptors: SharedDescriptors,
}

impl Dumped {
    /// The entry as JSON, the message decoded and private keys left out.
    pub fn to_json(&self) -> Value {
        let updated = self
            .updated
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map(|since| since.as_secs_f64());
        json!({
            "type": self.kind.short(),
            "name": &*self.name,
            "owner": match self.owner {
                Owner::Local => "static",
                Owner::Seed => "static until served",
                Owner::Stream => "dynamic",
            },
            "state": match self.state {
                Summary::Pending => "pending",
                Summary::Absent => "absent",
                Summary::Ready => "ready",
            },
            "version": self.version,
            "last_updated": updated,
            "error": self.error,
            "resource": self.message.as_deref().map(|message| {
                with_descriptors(message, self.descriptors.get_or_init(descriptors).as_ref())
            }),
        })
    }
}

/// Descriptors of every message in the contract. Read anew each time: they are too large to keep for the
/// bootstrap and a rare dump.
pub(crate) fn descriptors() -> Option<DescriptorPool> {
    DescriptorPool::decode(weir_xds::FILE_DESCRIPTOR_SET).ok()
}

/// The descriptors that the entries of one dump share.
pub(super) type SharedDescriptors = Arc<OnceLock<Option<DescriptorPool>>>;

/// A message as JSON, private keys and the like left out.
pub(crate) fn message_to_json(message: &Any) -> Value {
    with_descriptors(message, descriptors().as_ref())
}

fn with_descriptors(message: &Any, pool: Option<&DescriptorPool>) -> Value {
    let decoded = pool
        .and_then(|pool| pool.get_message_by_name(message.type_url.rsplit('/').next()?))
        .and_then(|descriptor| DynamicMessage::decode(descriptor, message.value.as_slice()).ok())
        .and_then(|decoded| {
            let options = SerializeOptions::new().use_proto_field_name(true);
            decoded
                .serialize_with_options(serde_json::value::Serializer, &options)
                .ok()
        });
    match decoded {
        Some(mut value) => {
            redact(&mut value);
            value
        }
        None => json!({ "@type": message.type_url, "undecoded_bytes": message.value.len() }),
    }
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                if matches!(
                    key.as_str(),
                    "privateKey" | "private_key" | "password" | "initial_metadata"
                ) {
                    *field = "[redacted]".into();
                } else {
                    redact(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use weir_xds::{
        envoy::{
            config::core::v3::{DataSource, data_source::Specifier},
            extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret},
        },
        pack,
    };

    use super::*;

    #[test]
    fn private_keys_are_never_shown() {
        let inline = |text: &str| DataSource {
            specifier: Some(Specifier::InlineString(text.to_owned())),
        };
        let secret = Secret {
            name: "mine".into(),
            r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(inline("the chain")),
                private_key: Some(inline("the key")),
                ..TlsCertificate::default()
            })),
        };
        let shown = message_to_json(&pack(&secret)).to_string();
        assert!(shown.contains("the chain"));
        assert!(!shown.contains("the key"));
    }
}
