//! Netlink messages as bytes: a writer of messages and attributes, and a reader that bounds everything it is told.

/// Size of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// Size of `struct nfgenmsg`, which follows the header in netfilter messages.
pub(super) const GENERIC: usize = 4;
/// Size of an attribute's own header.
const ATTRIBUTE: usize = 4;
/// The bits of an attribute's type that are its type: the others say how it is encoded.
const TYPE_MASK: u16 = 0x3fff;
/// Says that an attribute holds attributes.
const NESTED: u16 = 0x8000;

/// Rounds up to netlink's alignment.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Builds a run of netfilter messages in one buffer.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    last: usize,
}

impl Writer {
    /// Appends a message; `body` writes its attributes.
    pub(super) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        generic: [u8; GENERIC],
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.last = start;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&generic);
        body(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds a flag to the last message.
    pub(super) fn flag_last(&mut self, flag: u16) {
        let at = self.last + 6;
        if let Some(flags) = array(&self.bytes, at) {
            let flags = u16::from_ne_bytes(flags) | flag;
            self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        }
    }

    /// Appends an attribute with a value.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.framed(kind, |writer| writer.bytes.extend_from_slice(value));
    }

    /// Appends an attribute with a big-endian number, as nf_tables wants its numbers.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Appends an attribute with a terminated string.
    pub(super) fn string(&mut self, kind: u16, value: &str) {
        self.framed(kind, |writer| {
            writer.bytes.extend_from_slice(value.as_bytes());
            writer.bytes.push(0);
        });
    }

    /// Appends an attribute that holds the attributes `body` writes.
    pub(super) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.framed(kind | NESTED, body);
    }

    fn framed(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        body(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(start + aligned(self.bytes.len() - start), 0);
    }

    /// The messages.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A message as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// Its type.
    pub(super) kind: u16,
    /// The sequence number of the request it answers.
    pub(super) sequence: u32,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

/// The messages of a datagram; ends at the first that does not fit.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
        let message = Message {
            kind: u16::from_ne_bytes(array(bytes, 4)?),
            sequence: u32::from_ne_bytes(array(bytes, 8)?),
            payload: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a payload, as type and value; ends at the first that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(array(bytes, 0)?));
        let kind = u16::from_ne_bytes(array(bytes, 2)?) & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The bytes at `offset`, if there are as many.
pub(super) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// A string attribute's text, without its terminator.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests;
