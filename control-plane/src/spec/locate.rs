//! Finds where in a YAML or JSON document a field is written. Only used once something is wrong with it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};

/// A document's shape and where each part of it starts.
enum Node {
    Scalar,
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
    Seq(Vec<Spanned<Node>>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

/// Line and column of `field`, or of the innermost written field around it; the document's start at worst.
pub(super) fn position(text: &str, field: &str) -> (u32, u32) {
    let mut found = first_content(text);
    let Ok(root) = serde_saphyr::from_str::<Node>(text) else {
        return found;
    };
    let mut node = &root;
    for segment in segments(field) {
        let (at, next) = match (node, segment) {
            (Node::Map(entries), Segment::Key(wanted)) => {
                match entries.iter().find(|(key, _)| key.value == wanted) {
                    Some((key, value)) => (key.defined, &value.value),
                    None => break,
                }
            }
            (Node::Seq(items), Segment::Index(index)) => match items.get(index) {
                Some(item) => (item.defined, &item.value),
                None => break,
            },
            _ => break,
        };
        found = line_column(at).unwrap_or(found);
        node = next;
    }
    found
}

/// `path.key`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

enum Segment<'a> {
    Key(&'a str),
    Index(usize),
}

fn segments(field: &str) -> impl Iterator<Item = Segment<'_>> {
    field.split('.').flat_map(|part| {
        let mut pieces = part.split('[');
        let key = pieces.next().filter(|key| !key.is_empty()).map(Segment::Key);
        let indices = pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok().map(Segment::Index));
        key.into_iter().chain(indices)
    })
}

fn line_column(at: Location) -> Option<(u32, u32)> {
    let line = u32::try_from(at.line()).ok().filter(|&line| line > 0)?;
    Some((line, u32::try_from(at.column()).ok()?))
}

/// The first line that is neither empty nor a comment.
fn first_content(text: &str) -> (u32, u32) {
    let lines = text.lines().position(|line| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with("---")
    });
    (u32::try_from(lines.unwrap_or(0)).unwrap_or(0) + 1, 1)
}
