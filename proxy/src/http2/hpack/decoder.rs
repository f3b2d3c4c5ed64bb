//! Blocks to heads.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};

use super::{
    Error, Header, LIMIT, OVERHEAD, Outcome, huffman,
    table::{Dynamic, FIRST_DYNAMIC, HEADERS},
};

/// Turns blocks into heads, in the order in which they come.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// What HTTP does not know has its place there too, and a name that may be referred to.
    table: Dynamic<Result<Header, Name>>,
}

/// A field's name.
#[derive(Clone, Debug)]
enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    Field(HeaderName),
    /// None that there is, of so many octets.
    Unknown(usize),
}

/// What is left of a block.
struct Reader<'a> {
    block: &'a Bytes,
    at: usize,
}

/// A name or a value.
enum Text<'a> {
    /// As it stands in the block.
    Plain(&'a [u8]),
    Decoded(Vec<u8>),
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            table: Dynamic::new(),
        }
    }

    /// Takes a whole block and gives each of its fields, in their order. Values may share the block's memory. Which
    /// fields a head may have, how often and in which order, is not asked here.
    ///
    /// # Errors
    /// When it is no block. The decoder is of no use any more.
    pub(crate) fn decode(&mut self, block: Bytes, each: &mut impl FnMut(Header)) -> Result<Outcome, Error> {
        let mut reader = Reader { block: &block, at: 0 };
        let mut outcome = Outcome::Good;
        while let Some(first) = reader.resize() {
            self.resize(reader.number(first, 5)?)?;
        }
        while let Some(first) = reader.octet() {
            let malformed = match first {
                0x80.. => self.indexed(reader.number(first, 7)?, each)?,
                0x40.. => self.inserted(first, &mut reader, each)?,
                0x20.. => return Err(Error::Resize),
                _ => self.left_alone(first, &mut reader, each)?,
            };
            if let (Some(why), Outcome::Good) = (malformed, outcome) {
                outcome = Outcome::Malformed(why);
            }
        }
        Ok(outcome)
    }

    fn resize(&mut self, limit: usize) -> Result<(), Error> {
        if limit > LIMIT {
            return Err(Error::Resize);
        }
        self.table.resize(limit);
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<Result<&Header, &Name>, Error> {
        if let Some(header) = HEADERS.get(index.wrapping_sub(1)) {
            return Ok(Ok(header));
        }
        let entry = self.table.get(index.wrapping_sub(FIRST_DYNAMIC));
        Ok(entry.ok_or(Error::Index)?.as_ref())
    }

    /// Gives an entry (RFC 7541 §6.1), or says why it is malformed.
    fn indexed(&self, index: usize, each: &mut impl FnMut(Header)) -> Result<Option<&'static str>, Error> {
        Ok(match self.entry(index)? {
            Ok(header) => {
                each(header.clone());
                None
            }
            Err(name) => Some(name.why()),
        })
    }

    /// Gives a field that becomes an entry (RFC 7541 §6.2.1), or says why it is malformed. The table keeps no memory
    /// but its own.
    fn inserted(
        &mut self,
        first: u8,
        reader: &mut Reader<'_>,
        each: &mut impl FnMut(Header),
    ) -> Result<Option<&'static str>, Error> {
        let name = self.name(reader.number(first, 6)?, reader)?;
        let value = reader.text()?.copied();
        let size = name.len() + value.len() + OVERHEAD;
        let header = header(name, value, false);
        self.table.insert(size, header.clone());
        Ok(give(header, each))
    }

    /// Gives a field that leaves the table alone (RFC 7541 §6.2.2 and §6.2.3), or says why it is malformed.
    fn left_alone(
        &self,
        first: u8,
        reader: &mut Reader<'_>,
        each: &mut impl FnMut(Header),
    ) -> Result<Option<&'static str>, Error> {
        let name = self.name(reader.number(first, 4)?, reader)?;
        let value = reader.text()?.shared(reader.block);
        Ok(give(header(name, value, first & 0x10 != 0), each))
    }

    /// The name of an entry or, with index 0, the one that follows.
    fn name(&self, index: usize, reader: &mut Reader<'_>) -> Result<Name, Error> {
        if index == 0 {
            return Ok(Name::read(reader.text()?.octets()));
        }
        Ok(match self.entry(index)? {
            Ok(header) => Name::of(header),
            Err(name) => name.clone(),
        })
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.table.size()
    }
}

fn give(header: Result<Header, Name>, each: &mut impl FnMut(Header)) -> Option<&'static str> {
    match header {
        Ok(header) => {
            each(header);
            None
        }
        Err(name) => Some(name.why()),
    }
}

/// The field; its name, when that or the value is malformed. `secret`: it must come into no table on the way either.
fn header(name: Name, value: Bytes, secret: bool) -> Result<Header, Name> {
    match name {
        Name::Method => Method::from_bytes(&value).map(Header::Method).or(Err(name)),
        Name::Scheme => text(value, secret).map(Header::Scheme).ok_or(name),
        Name::Authority => text(value, secret).map(Header::Authority).ok_or(name),
        Name::Path => path(value).map(Header::Path).ok_or(name),
        Name::Protocol => text(value, secret).map(Header::Protocol).ok_or(name),
        Name::Status => StatusCode::from_bytes(&value).map(Header::Status).or(Err(name)),
        Name::Field(name) => match text(value, secret) {
            Some(value) => Ok(Header::Field(name, value)),
            None => Err(Name::Field(name)),
        },
        Name::Unknown(_) => Err(name),
    }
}

/// A path begins with a slash, except for the one that means the server as a whole (RFC 9113 §8.3.1).
fn path(value: Bytes) -> Option<PathAndQuery> {
    let is_path = value.first() == Some(&b'/') || value == "*";
    PathAndQuery::from_maybe_shared(value).ok().filter(|_| is_path)
}

fn text(value: Bytes, secret: bool) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(value).ok()?;
    value.set_sensitive(secret);
    Some(value)
}

impl Name {
    /// The one of which these are the octets. Upper case is malformed (RFC 9113 §8.2.1), and so is a pseudo field
    /// that no one defined.
    fn read(octets: &[u8]) -> Self {
        match octets {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            _ => match HeaderName::from_lowercase(octets) {
                Ok(name) => Self::Field(name),
                Err(_) => Self::Unknown(octets.len()),
            },
        }
    }

    fn of(header: &Header) -> Self {
        match header {
            Header::Method(_) => Self::Method,
            Header::Scheme(_) => Self::Scheme,
            Header::Authority(_) => Self::Authority,
            Header::Path(_) => Self::Path,
            Header::Protocol(_) => Self::Protocol,
            Header::Status(_) => Self::Status,
            Header::Field(name, _) => Self::Field(name.clone()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Method => ":method".len(),
            Self::Scheme => ":scheme".len(),
            Self::Authority => ":authority".len(),
            Self::Path => ":path".len(),
            Self::Protocol => ":protocol".len(),
            Self::Status => ":status".len(),
            Self::Field(name) => name.as_str().len(),
            Self::Unknown(octets) => *octets,
        }
    }

    /// Why there is no field with this name.
    fn why(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "a field's name is malformed or unknown",
            _ => "a field's value is malformed",
        }
    }
}

impl<'a> Reader<'a> {
    fn octet(&mut self) -> Option<u8> {
        let octet = *self.block.get(self.at)?;
        self.at += 1;
        Some(octet)
    }

    /// The next octet if it begins a change of the table's size (RFC 7541 §6.3).
    fn resize(&mut self) -> Option<u8> {
        let octet = *self.block.get(self.at)?;
        let resizes = octet & 0xe0 == 0x20;
        self.at += usize::from(resizes);
        resizes.then_some(octet)
    }

    /// A number of which `bits` are in the octet before (RFC 7541 §5.1).
    fn number(&mut self, first: u8, bits: u32) -> Result<usize, Error> {
        let most = (1 << bits) - 1;
        match usize::from(first) & most {
            number if number < most => Ok(number),
            _ => self.long_number(most as u64),
        }
    }

    /// The octets of a number that are added to what its first bits are at most.
    fn long_number(&mut self, most: u64) -> Result<usize, Error> {
        let mut number = most;
        for shift in [0, 7, 14, 21, 28] {
            let octet = self.octet().ok_or(Error::Short)?;
            number += u64::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                let number = u32::try_from(number).map_err(|_| Error::Number)?;
                return Ok(number as usize);
            }
        }
        Err(Error::Number)
    }

    fn text(&mut self) -> Result<Text<'a>, Error> {
        let first = self.octet().ok_or(Error::Short)?;
        let length = self.number(first, 7)?;
        let (_, rest) = self.block.split_at_checked(self.at).ok_or(Error::Short)?;
        let octets = rest.get(..length).ok_or(Error::Short)?;
        self.at += length;
        Ok(match first & 0x80 {
            0 => Text::Plain(octets),
            _ => Text::Decoded(huffman::decode(octets)?),
        })
    }
}

impl Text<'_> {
    fn octets(&self) -> &[u8] {
        match self {
            Self::Plain(octets) => octets,
            Self::Decoded(octets) => octets,
        }
    }

    fn shared(self, block: &Bytes) -> Bytes {
        match self {
            Self::Plain(octets) => block.slice_ref(octets),
            Self::Decoded(octets) => octets.into(),
        }
    }

    fn copied(self) -> Bytes {
        match self {
            Self::Plain(octets) => Bytes::copy_from_slice(octets),
            Self::Decoded(octets) => octets.into(),
        }
    }
}
