//! Where the encoder finds its entries again, and what it has seen of late.

/// Buckets of places where an entry may be noted.
const BUCKETS: usize = 128;
/// Places of a bucket.
const PLACES: usize = 4;
/// How many hashes are remembered at most.
const SEEN: usize = 128;

/// Notes of numbered things under hashes, which are forgotten by nobody's asking: whoever looks must compare.
#[derive(Debug)]
pub(super) struct Index {
    /// The upper half is of the hash, the lower half is the number.
    buckets: [[u32; PLACES]; BUCKETS],
    seen: [u32; SEEN],
}

impl Index {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self {
            buckets: [[0; PLACES]; BUCKETS],
            seen: [0; SEEN],
        })
    }

    /// The number noted under the hash that `is` the one looked for.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl Fn(u16) -> bool) -> Option<u16> {
        let mut bucket = self.buckets[bucket(hash)].iter();
        let place = bucket.find(|place| *place >> 16 == tag(hash) && is(number(**place)))?;
        Some(number(*place))
    }

    /// Notes a number under a hash, in place of one that is `gone`; whether there was such a place.
    pub(super) fn note(&mut self, hash: u64, noted: u16, gone: impl Fn(u16) -> bool) -> bool {
        let mut bucket = self.buckets[bucket(hash)].iter_mut();
        let Some(place) = bucket.find(|place| gone(number(**place))) else {
            return false;
        };
        *place = tag(hash) << 16 | u32::from(noted);
        true
    }

    /// Whether the hash was asked about lately; from now on it was.
    pub(super) fn seen(&mut self, hash: u64) -> bool {
        let [place, ..] = hash.to_le_bytes();
        let place = &mut self.seen[usize::from(place) % SEEN];
        let before = std::mem::replace(place, (hash >> 32) as u32);
        before == (hash >> 32) as u32
    }
}

fn bucket(hash: u64) -> usize {
    let [.., bucket] = hash.to_le_bytes();
    usize::from(bucket) % BUCKETS
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 & 0xffff
}

fn number(place: u32) -> u16 {
    (place & 0xffff) as u16
}

/// A hash of the octets that costs about one instruction each. Whoever chooses them can make hashes equal, which
/// only keeps what has them out of the table.
pub(super) const fn hash(seed: u64, octets: &[u8]) -> u64 {
    let mut hash = seed ^ octets.len() as u64;
    let mut rest = octets;
    while let Some((words, after)) = rest.split_first_chunk::<16>() {
        let (first, second) = ends(words);
        hash = mixed(hash ^ first, second);
        rest = after;
    }
    let (first, second) = ends(rest);
    mixed(hash ^ first, second)
}

/// At most 16 octets in two numbers that tell them from all others of the same length.
const fn ends(octets: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (octets.first_chunk(), octets.last_chunk()) {
        return (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (octets.first_chunk(), octets.last_chunk()) {
        return (
            u32::from_le_bytes(*first) as u64,
            u32::from_le_bytes(*last) as u64,
        );
    }
    match octets {
        [first, second, third, ..] => (*first as u64 | (*second as u64) << 8, *third as u64),
        [first, second] => (*first as u64, *second as u64),
        [only] => (*only as u64, 0),
        [] => (0, 0),
    }
}

const fn mixed(first: u64, second: u64) -> u64 {
    let second = second ^ 0x9e37_79b9_7f4a_7c15;
    let high = (first as u128 * second as u128) >> 64;
    first.wrapping_mul(second) ^ high as u64
}
