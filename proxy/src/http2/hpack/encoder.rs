//! Heads to blocks.

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{
    LIMIT, OVERHEAD,
    index::{Index, hash},
    table::{Dynamic, FIRST_DYNAMIC, STATIC},
};

/// Turns heads into blocks, in the order in which they are sent.
///
/// What is seen for the second time within a while becomes an entry of the table, and so does a name that the table
/// lacks: then its values, which may be another each time, at least need not repeat it.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: Dynamic<Entry>,
    /// Where the entries are by the hash of name and value, and of the name alone.
    index: Option<Box<Index>>,
    /// How many entries there have been: the newest has this number.
    inserted: u16,
    /// The least limit since the last block, when that is to be told.
    resized: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    /// The name and the value.
    octets: Box<[u8]>,
    /// How many of them are the name.
    name: usize,
}

/// A field's name, with its hash.
#[derive(Clone, Copy)]
struct Name<'a> {
    octets: &'a [u8],
    hash: u64,
}

/// A field's name and value, with the hash of both.
#[derive(Clone, Copy)]
struct Pair<'a> {
    name: Name<'a>,
    value: &'a [u8],
    hash: u64,
}

/// How a field that has no index is written (RFC 7541 §6.2): the first octet, and how many bits of it are the
/// name's index.
#[derive(Clone, Copy)]
struct Literal(u8, u32);

const INSERTED: Literal = Literal(0x40, 6);
const LEFT_ALONE: Literal = Literal(0x00, 4);
/// By no one on the way either.
const NEVER: Literal = Literal(0x10, 4);

/// Cookies shorter than this could be guessed (RFC 7541 §7.1.3).
const GUESSABLE_COOKIE: usize = 20;
/// Most of the table that one entry may take.
const SHARE: usize = 4;

const METHOD: Name<'_> = Name::of(b":method");
const SCHEME: Name<'_> = Name::of(b":scheme");
const AUTHORITY: Name<'_> = Name::of(b":authority");
const PATH: Name<'_> = Name::of(b":path");
const STATUS: Name<'_> = Name::of(b":status");

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            table: Dynamic::new(),
            index: None,
            inserted: 0,
            resized: None,
        }
    }

    /// Takes the peer's `SETTINGS_HEADER_TABLE_SIZE`. However much it allows, the table has no more than 4096 octets.
    pub(crate) fn set_limit(&mut self, octets: usize) {
        let limit = octets.min(LIMIT);
        if limit == self.table.limit() {
            return;
        }
        self.resized = Some(self.resized.map_or(limit, |least| least.min(limit)));
        self.table.resize(limit);
    }

    /// Begins a block: tells the peer of the table's size when that has changed.
    pub(crate) fn begin(&mut self, out: &mut BytesMut) {
        let Some(least) = self.resized.take() else {
            return;
        };
        // Otherwise the peer would keep what is gone here (RFC 7541 §4.2).
        if least < self.table.limit() {
            number(0x20, 5, least, out);
        }
        number(0x20, 5, self.table.limit(), out);
    }

    pub(crate) fn method(&mut self, method: &Method, out: &mut BytesMut) {
        match *method {
            Method::GET => indexed(2, out),
            Method::POST => indexed(3, out),
            _ => self.write(METHOD, method.as_str().as_bytes(), out),
        }
    }

    pub(crate) fn scheme(&mut self, scheme: &str, out: &mut BytesMut) {
        match scheme {
            "http" => indexed(6, out),
            "https" => indexed(7, out),
            _ => self.write(SCHEME, scheme.as_bytes(), out),
        }
    }

    pub(crate) fn authority(&mut self, authority: &str, out: &mut BytesMut) {
        self.write(AUTHORITY, authority.as_bytes(), out);
    }

    pub(crate) fn path(&mut self, path: &str, out: &mut BytesMut) {
        match path {
            "/" => indexed(4, out),
            _ => self.write(PATH, path.as_bytes(), out),
        }
    }

    pub(crate) fn status(&mut self, status: StatusCode, out: &mut BytesMut) {
        match status.as_u16() {
            200 => indexed(8, out),
            204 => indexed(9, out),
            206 => indexed(10, out),
            304 => indexed(11, out),
            400 => indexed(12, out),
            404 => indexed(13, out),
            500 => indexed(14, out),
            _ => self.write(STATUS, status.as_str().as_bytes(), out),
        }
    }

    pub(crate) fn field(&mut self, name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
        let name = Name::of(name.as_str().as_bytes());
        match value.is_sensitive() {
            true => literal(NEVER, self.name_index(name), name, value.as_bytes(), out),
            false => self.write(name, value.as_bytes(), out),
        }
    }

    // Called, it would take a tenth more instructions to find an entry.
    #[inline(always)]
    fn write(&mut self, name: Name<'_>, value: &[u8], out: &mut BytesMut) {
        let hash = hash(name.hash, value);
        let pair = Pair { name, value, hash };
        match self.find(hash, |entry| entry.is(pair)) {
            Some(index) => indexed(index, out),
            None => self.write_unknown(pair, out),
        }
    }

    /// Writes what is not in the dynamic table.
    #[inline(never)]
    fn write_unknown(&mut self, pair: Pair<'_>, out: &mut BytesMut) {
        let index = self.name_index(pair.name);
        if static_field(index).is_some_and(|(_, value)| value.as_bytes() == pair.value) {
            return indexed(index, out);
        }
        let form = if is_secret(index, pair.value) {
            NEVER
        } else if self.is_worth_it(pair, index) && self.insert(pair, index) {
            INSERTED
        } else {
            LEFT_ALONE
        };
        literal(form, index, pair.name, pair.value, out);
    }

    /// Whether the field came before, or its name if that has no index, and it is not too large.
    fn is_worth_it(&mut self, pair: Pair<'_>, name_index: usize) -> bool {
        let index = self.index.get_or_insert_with(Index::new);
        let unnamed = name_index == 0 && index.seen(pair.name.hash);
        (index.seen(pair.hash) || unnamed) && pair.size() <= self.table.limit() / SHARE
    }

    /// Makes it the newest entry if it could be found again, its name as well unless that has an index; whether it
    /// is.
    fn insert(&mut self, pair: Pair<'_>, name_index: usize) -> bool {
        let Some(index) = &mut self.index else {
            return false;
        };
        let (newest, entries) = (self.inserted, self.table.len());
        let number = newest.wrapping_add(1);
        let gone = |noted: u16| usize::from(newest.wrapping_sub(noted)) >= entries;
        let named = name_index != 0 || index.note(pair.name.hash, number, gone);
        if !(named && index.note(pair.hash, number, gone)) {
            return false;
        }
        self.inserted = number;
        self.table.insert(pair.size(), Entry::of(pair));
        true
    }

    /// The index of an entry with this name; 0: there is none.
    fn name_index(&self, name: Name<'_>) -> usize {
        match static_name(name) {
            0 => self
                .find(name.hash, |entry| entry.has_name(name.octets))
                .unwrap_or(0),
            index => index,
        }
    }

    /// The index of the entry in the dynamic table that `is` the one looked for.
    #[inline]
    fn find(&self, hash: u64, is: impl Fn(&Entry) -> bool) -> Option<usize> {
        let age = |number: u16| usize::from(self.inserted.wrapping_sub(number));
        let number = (self.index.as_ref()?).find(hash, |number| self.table.get(age(number)).is_some_and(&is));
        number.map(|number| FIRST_DYNAMIC + age(number))
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.table.size()
    }
}

impl Entry {
    fn of(pair: Pair<'_>) -> Self {
        Self {
            octets: [pair.name.octets, pair.value].concat().into(),
            name: pair.name.octets.len(),
        }
    }

    fn has_name(&self, name: &[u8]) -> bool {
        self.octets.get(..self.name) == Some(name)
    }

    fn is(&self, pair: Pair<'_>) -> bool {
        self.octets.split_at_checked(self.name) == Some((pair.name.octets, pair.value))
    }
}

impl Pair<'_> {
    fn size(self) -> usize {
        self.name.octets.len() + self.value.len() + OVERHEAD
    }
}

impl<'a> Name<'a> {
    const fn of(octets: &'a [u8]) -> Self {
        Self {
            octets,
            hash: hash(0, octets),
        }
    }
}

/// Whether a value must not come into any table, where others could find it out by trying (RFC 7541 §7.1).
fn is_secret(name_index: usize, value: &[u8]) -> bool {
    match static_field(name_index) {
        Some(("authorization" | "proxy-authorization" | "set-cookie", _)) => true,
        Some(("cookie", _)) => value.len() < GUESSABLE_COOKIE,
        _ => false,
    }
}

fn static_field(index: usize) -> Option<&'static (&'static str, &'static str)> {
    STATIC.get(index.wrapping_sub(1))
}

/// The first index of the static table with this name; 0: there is none.
fn static_name(name: Name<'_>) -> usize {
    let mut place = static_place(name.hash);
    loop {
        let index = usize::from(STATIC_NAMES[place]);
        match static_field(index) {
            Some((known, _)) if known.as_bytes() != name.octets => place = (place + 1) % STATIC_PLACES,
            _ => return index,
        }
    }
}

/// The names' indices in the static table, each at or after the place of its hash; 0: none.
static STATIC_NAMES: [u8; STATIC_PLACES] = static_names();
const STATIC_PLACES: usize = 256;

const fn static_place(hash: u64) -> usize {
    hash.to_le_bytes()[0] as usize
}

const fn static_names() -> [u8; STATIC_PLACES] {
    let mut names = [0; STATIC_PLACES];
    // The first index of several comes last, and stays.
    let mut index = STATIC.len();
    while index > 0 {
        let name = STATIC[index - 1].0.as_bytes();
        let mut place = static_place(Name::of(name).hash);
        while names[place] != 0 && !equal(STATIC[names[place] as usize - 1].0.as_bytes(), name) {
            place = (place + 1) % STATIC_PLACES;
        }
        names[place] = lowest(index);
        index -= 1;
    }
    names
}

const fn equal(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([first, rest @ ..], [second, left @ ..]) = (one, other) {
        if *first != *second {
            return false;
        }
        (one, other) = (rest, left);
    }
    one.is_empty() && other.is_empty()
}

fn indexed(index: usize, out: &mut BytesMut) {
    number(0x80, 7, index, out);
}

fn literal(Literal(first, bits): Literal, index: usize, name: Name<'_>, value: &[u8], out: &mut BytesMut) {
    number(first, bits, index, out);
    if index == 0 {
        text(name.octets, out);
    }
    text(value, out);
}

fn text(octets: &[u8], out: &mut BytesMut) {
    number(0x00, 7, octets.len(), out);
    out.extend_from_slice(octets);
}

/// Writes a number of which `bits` fit in the first octet (RFC 7541 §5.1).
fn number(first: u8, bits: u32, number: usize, out: &mut BytesMut) {
    let most = (1 << bits) - 1;
    if number < most {
        return out.put_u8(first | lowest(number));
    }
    out.put_u8(first | lowest(most));
    let mut rest = number - most;
    while rest >= 0x80 {
        out.put_u8(lowest(rest) | 0x80);
        rest >>= 7;
    }
    out.put_u8(lowest(rest));
}

const fn lowest(number: usize) -> u8 {
    number.to_le_bytes()[0]
}
