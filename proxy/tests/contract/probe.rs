//! Sets each field of each message in turn and looks at what decoding makes of it.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _,
    Value, prost::Message as _,
};
use prost_types::Any;
use weir_proxy::xds::decode::{self, Context, Decoded, Origin};
use weir_xds::ResourceType;

use super::samples::{Pem, resources, values};

/// What becomes of a field that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Treatment {
    Kept,
    Ignored,
    Refused,
    Moot,
}

impl Treatment {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Ignored => "ignored",
            Self::Moot => "moot",
            Self::Refused => "refused",
        }
    }
}

/// One field, and how each value that was tried fared.
pub(crate) struct Probed {
    pub(crate) number: u32,
    pub(crate) values: Vec<(String, Treatment)>,
}

impl Probed {
    /// A field does what it does in any place.
    fn merge(&mut self, other: Self) {
        for ((_, treatment), (_, elsewhere)) in self.values.iter_mut().zip(other.values) {
            *treatment = elsewhere.min(*treatment);
        }
    }

    /// The treatment in words; values of an enumeration or a switch that fare otherwise are named.
    pub(crate) fn words(&self) -> String {
        let Some(main) = self.values.iter().map(|(_, treatment)| *treatment).min() else {
            return "not probed".to_owned();
        };
        let mut words = main.word().to_owned();
        for other in [Treatment::Ignored, Treatment::Refused, Treatment::Moot] {
            let named: Vec<_> = self
                .values
                .iter()
                .filter(|(label, treatment)| *treatment == other && other != main && !label.is_empty())
                .map(|(label, _)| label.as_str())
                .collect();
            if !named.is_empty() {
                words.push_str(&format!("; {}: {}", other.word(), named.join(", ")));
            }
        }
        words
    }
}

/// Messages by full name, their fields in order of declaration.
pub(crate) type Table = BTreeMap<String, Vec<(String, Probed)>>;

#[derive(Clone)]
enum Step {
    Field(u32),
    Item(usize),
    Key(MapKey),
    Any,
}

/// A message inside a resource.
struct Place {
    /// Which of the resources to start from it comes from.
    start: usize,
    kind: ResourceType,
    root: DynamicMessage,
    path: Vec<Step>,
}

#[derive(PartialEq)]
struct Outcome {
    decoded: Decoded,
    ignored: BTreeSet<&'static str>,
}

/// Probes all that can be reached from resources of the stream.
pub(crate) fn all() -> Table {
    let pool = DescriptorPool::decode(weir_xds::FILE_DESCRIPTOR_SET).unwrap();
    let pem = Pem::new();
    let mut queue = VecDeque::new();
    for (start, (kind, json)) in resources(&pem).into_iter().enumerate() {
        let name = kind.url().rsplit('/').next().unwrap();
        let root = DynamicMessage::deserialize(pool.get_message_by_name(name).unwrap(), &json).unwrap();
        if let Err(error) = decode(kind, &root) {
            panic!("{kind} to start from: {error}\n{json:#}");
        }
        reach(&mut queue, start, kind, &root);
    }
    let mut table = Table::new();
    let mut visited = HashSet::new();
    while let Some(place) = queue.pop_front() {
        let descriptor = place.message().descriptor();
        let name = descriptor.full_name().to_owned();
        if name.starts_with("google.protobuf.")
            || !visited.insert((name.clone(), place.start, place.parent()))
        {
            continue;
        }
        let known = table.entry(name).or_default();
        for (index, field) in descriptor.fields().enumerate() {
            let probed = field_of(&place, &descriptor, &field, &pem, &mut queue);
            match known.get_mut(index) {
                Some((_, before)) => before.merge(probed),
                None => known.push((field.name().to_owned(), probed)),
            }
        }
    }
    table
}

/// All messages that are in a resource already, outermost first.
fn reach(queue: &mut VecDeque<Place>, start: usize, kind: ResourceType, root: &DynamicMessage) {
    let mut paths = VecDeque::from([Vec::new()]);
    while let Some(path) = paths.pop_front() {
        let place = Place {
            start,
            kind,
            root: root.clone(),
            path,
        };
        let message = place.message();
        for (field, value) in message.fields() {
            paths.extend(below(&place.path, field.number(), value));
        }
        queue.push_back(place);
    }
}

/// Paths of the messages in a field's value.
fn below(path: &[Step], number: u32, value: &Value) -> Vec<Vec<Step>> {
    let with = |more: &[Step]| [path, &[Step::Field(number)], more].concat();
    let mut found = Vec::new();
    let mut add = |value: &Value, more: &[Step]| {
        if let Value::Message(message) = value {
            if message.descriptor().full_name() == "google.protobuf.Any" {
                if message
                    .get_field_by_name("type_url")
                    .is_some_and(|url| url.as_str() != Some(""))
                {
                    found.push(with(&[more, &[Step::Any]].concat()));
                }
            } else {
                found.push(with(more));
            }
        }
    };
    match value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                add(item, &[Step::Item(index)]);
            }
        }
        Value::Map(entries) => {
            for (key, entry) in entries {
                add(entry, &[Step::Key(key.clone())]);
            }
        }
        value => add(value, &[]),
    }
    found
}

fn field_of(
    place: &Place,
    descriptor: &MessageDescriptor,
    field: &FieldDescriptor,
    pem: &Pem,
    queue: &mut VecDeque<Place>,
) -> Probed {
    let cleared = place.edited(&mut |message| match field.containing_oneof() {
        Some(oneof) => oneof.fields().for_each(|one| message.clear_field(&one)),
        None => message.clear_field(field),
    });
    let before = decode(place.kind, &cleared);
    let mut tried = Vec::new();
    for json in values(field, pem) {
        let holder = serde_json::json!({ field.name(): json });
        let value = DynamicMessage::deserialize(descriptor.clone(), &holder)
            .unwrap_or_else(|error| panic!("{}.{}: {error}: {json}", descriptor.full_name(), field.name()))
            .get_field(field)
            .into_owned();
        let set = edit_root(&cleared, &place.path, &mut |message| {
            message.set_field(field, value.clone())
        });
        let treatment = compare(&before, &decode(place.kind, &set));
        if matches!(treatment, Treatment::Kept) {
            for path in below(&place.path, field.number(), &value) {
                queue.push_back(Place {
                    start: place.start,
                    kind: place.kind,
                    root: set.clone(),
                    path,
                });
            }
        }
        let label = match (field.kind(), &json) {
            (Kind::Enum(_), name) => name.as_str().unwrap_or_default().to_owned(),
            (_, serde_json::Value::Bool(switch)) => switch.to_string(),
            _ => String::new(),
        };
        tried.push((label, treatment));
    }
    Probed {
        number: field.number(),
        values: tried,
    }
}

fn compare(before: &Result<Outcome, String>, after: &Result<Outcome, String>) -> Treatment {
    match (before, after) {
        (_, Err(_)) => Treatment::Refused,
        (Err(_), Ok(_)) => Treatment::Kept,
        (Ok(before), Ok(after)) if before.decoded != after.decoded => Treatment::Kept,
        (Ok(before), Ok(after)) if before.ignored != after.ignored => Treatment::Ignored,
        _ => Treatment::Moot,
    }
}

fn decode(kind: ResourceType, message: &DynamicMessage) -> Result<Outcome, String> {
    let any = Any {
        type_url: kind.url().to_owned(),
        value: message.encode_to_vec(),
    };
    let mut context = Context::new(Origin::Stream);
    let decoded = decode::resource(kind, &any, &mut context).outcome;
    assert!(context.unknown.is_empty(), "every field here is of the contract");
    Ok(Outcome {
        decoded: decoded.map_err(|error| error.to_string())?,
        ignored: context.ignored,
    })
}

impl Place {
    /// Which field of which message it is in.
    fn parent(&self) -> Option<(String, u32)> {
        let field = |step: &Step| matches!(step, Step::Field(_));
        let at = self.path.iter().rposition(field)?;
        let Some(Step::Field(number)) = self.path.get(at) else {
            return None;
        };
        let path = self.path.get(..at)?.to_vec();
        let Self {
            start, kind, root, ..
        } = self;
        let holder = Self {
            start: *start,
            kind: *kind,
            root: root.clone(),
            path,
        };
        Some((holder.message().descriptor().full_name().to_owned(), *number))
    }

    fn message(&self) -> DynamicMessage {
        let mut found = None;
        edit_root(&self.root, &self.path, &mut |message| {
            found = Some(message.clone())
        });
        found.unwrap()
    }

    fn edited(&self, change: &mut dyn FnMut(&mut DynamicMessage)) -> DynamicMessage {
        edit_root(&self.root, &self.path, change)
    }
}

fn edit_root(
    root: &DynamicMessage,
    path: &[Step],
    change: &mut dyn FnMut(&mut DynamicMessage),
) -> DynamicMessage {
    let mut root = root.clone();
    edit(&mut root, path, change);
    root
}

fn edit(message: &mut DynamicMessage, path: &[Step], change: &mut dyn FnMut(&mut DynamicMessage)) {
    match path {
        [] => change(message),
        [Step::Field(number), rest @ ..] => {
            edit_value(message.get_field_by_number_mut(*number).unwrap(), rest, change);
        }
        [Step::Any, rest @ ..] => {
            let any: Any = message.transcode_to().unwrap();
            let name = any.type_url.rsplit('/').next().unwrap();
            let pool = message.descriptor().parent_pool().clone();
            let mut inner =
                DynamicMessage::decode(pool.get_message_by_name(name).unwrap(), any.value.as_slice())
                    .unwrap();
            edit(&mut inner, rest, change);
            let bytes = inner.encode_to_vec();
            message.set_field_by_name("value", Value::Bytes(bytes.into()));
        }
        _ => unreachable!("items and keys are steps into values"),
    }
}

fn edit_value(value: &mut Value, path: &[Step], change: &mut dyn FnMut(&mut DynamicMessage)) {
    match (value, path) {
        (Value::List(items), [Step::Item(index), rest @ ..]) => edit_value(&mut items[*index], rest, change),
        (Value::Map(entries), [Step::Key(key), rest @ ..]) => {
            edit_value(entries.get_mut(key).unwrap(), rest, change);
        }
        (Value::Message(message), path) => edit(message, path, change),
        _ => unreachable!("a path leads through messages"),
    }
}
