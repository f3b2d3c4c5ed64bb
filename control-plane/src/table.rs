//! An ordered map for states that follow one another: a copy shares all that the original has, a change costs the
//! chunk it falls in, and what differs between two states is found without looking at what they share.
//!
//! Entries lie in sorted chunks, the chunks in a list. That is one level less than a tree has; 10,000 entries are some
//! 200 chunks, and to copy or to compare a list of so many pointers takes a microsecond or two.

use std::{borrow::Borrow, cmp::Ordering, fmt, slice, sync::Arc};

/// The most entries of a chunk. One that grows beyond is cut in two.
const CHUNK: usize = 64;
/// A chunk that shrinks below joins a neighbour.
const SMALL: usize = 16;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// An ordered map that is cheap to copy.
#[derive(Clone)]
pub struct Table<K, V> {
    /// None of them is empty.
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

/// What became of one key from a table to another. At least one of the values is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Change<'a, K, V> {
    /// The key.
    pub key: &'a K,
    /// Its value in the first table.
    pub old: Option<&'a V>,
    /// Its value in the second.
    pub new: Option<&'a V>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            chunks: Arc::default(),
            len: 0,
        }
    }
}

impl<K, V> Table<K, V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries by key.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            chunks: self.chunks.iter(),
            entries: [].iter(),
        }
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Whether it is the very same state. `false` does not say that they differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }
}

impl<K: Ord, V> Table<K, V> {
    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = place(chunk, key).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    /// Whether a key has a value.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The chunk that a key is in, or belongs in.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_before =
            |chunk: &Chunk<K, V>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        self.chunks.partition_point(begins_before).saturating_sub(1)
    }

    /// What differs from `self` to `other`, by key. Values are told apart by `same`, and only where the tables do not
    /// share the chunk.
    pub fn changes<'a>(
        &'a self,
        other: &'a Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> impl Iterator<Item = Change<'a, K, V>> {
        let (mut old, mut new) = match self.is_same(other) {
            true => (Cursor::default(), Cursor::default()),
            false => (Cursor::new(self), Cursor::new(other)),
        };
        std::iter::from_fn(move || {
            loop {
                Cursor::skip_shared(&mut old, &mut new);
                let (before, after) = (old.entry(), new.entry());
                let order = match (before, after) {
                    (Some((before, _)), Some((after, _))) => before.cmp(after),
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (None, None) => return None,
                };
                let before = before.filter(|_| order.is_le());
                let after = after.filter(|_| order.is_ge());
                old.advance(before.is_some());
                new.advance(after.is_some());
                if let (Some((_, old)), Some((_, new))) = (before, after)
                    && same(old, new)
                {
                    continue;
                }
                let (key, _) = before.or(after)?;
                return Some(Change {
                    key,
                    old: before.map(|(_, value)| value),
                    new: after.map(|(_, value)| value),
                });
            }
        })
    }
}

impl<K: Clone + Ord, V: Clone> Table<K, V> {
    /// Gives a key a value. The value that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.chunk_of(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(index) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        match place(chunk, &key) {
            Ok(at) => chunk.get_mut(at).map(|(_, last)| std::mem::replace(last, value)),
            Err(at) => {
                chunk.insert(at, (key, value));
                self.len += 1;
                if chunk.len() > CHUNK {
                    // What comes in order fills its chunks.
                    let at = if at + 1 == chunk.len() { at } else { CHUNK / 2 };
                    let rest = chunk.split_off(at);
                    chunks.insert(index + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// Takes a key out. The value that it had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.chunk_of(key);
        let at = place(self.chunks.get(index)?, key).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(chunks.get_mut(index)?);
        let (_, value) = chunk.remove(at);
        self.len -= 1;
        let left = chunk.len();
        if left == 0 {
            chunks.remove(index);
        } else if left < SMALL {
            join(chunks, index);
        }
        Some(value)
    }
}

/// Moves a small chunk into the one before it, or the one after it into it, if they fit.
fn join<K: Clone, V: Clone>(chunks: &mut Vec<Chunk<K, V>>, index: usize) {
    let first = index.saturating_sub(1);
    let together: usize = chunks.iter().skip(first).take(2).map(|chunk| chunk.len()).sum();
    if together > CHUNK - SMALL || first + 1 >= chunks.len() {
        return;
    }
    let rest = Arc::unwrap_or_clone(chunks.remove(first + 1));
    if let Some(chunk) = chunks.get_mut(first) {
        Arc::make_mut(chunk).extend(rest);
    }
}

fn place<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized>(chunk: &[(K, V)], key: &Q) -> Result<usize, usize> {
    chunk.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

/// A place in a table.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    /// Entry of the first of them.
    at: usize,
}

impl<K, V> Default for Cursor<'_, K, V> {
    fn default() -> Self {
        Self { chunks: &[], at: 0 }
    }
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(table: &'a Table<K, V>) -> Self {
        let chunks = &table.chunks;
        Self { chunks, at: 0 }
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        self.chunks.first()?.get(self.at)
    }

    fn advance(&mut self, really: bool) {
        if !really {
            return;
        }
        self.at += 1;
        if self.chunks.first().is_none_or(|chunk| self.at >= chunk.len()) {
            self.next_chunk();
        }
    }

    fn next_chunk(&mut self) {
        self.chunks = self.chunks.split_first().map_or(&[], |(_, rest)| rest);
        self.at = 0;
    }

    /// Passes the chunks that both have, where both stand at the beginning of one.
    fn skip_shared(a: &mut Self, b: &mut Self) {
        while a.at == 0
            && b.at == 0
            && let (Some(one), Some(other)) = (a.chunks.first(), b.chunks.first())
            && Arc::ptr_eq(one, other)
        {
            a.next_chunk();
            b.next_chunk();
        }
    }
}

/// The entries of a [`Table`] by key.
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    chunks: slice::Iter<'a, Chunk<K, V>>,
    entries: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            self.entries = self.chunks.next()?.iter();
        }
    }
}

impl<'a, K, V> IntoIterator for &'a Table<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K: Clone + Ord, V: Clone> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut table = Self::default();
        table.extend(entries);
        table
    }
}

impl<K: Clone + Ord, V: Clone> Extend<(K, V)> for Table<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || (self.len == other.len && self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for Table<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn numbers(count: u32) -> Table<u32, u32> {
        (0..count).map(|n| (n, n)).collect()
    }

    fn shape(table: &Table<u16, u8>) -> bool {
        let sizes = table.chunks.iter().map(|chunk| chunk.len());
        sizes.clone().all(|size| (1..=CHUNK).contains(&size)) && sizes.sum::<usize>() == table.len()
    }

    #[test]
    fn a_copy_shares_all_but_the_chunk_that_changed() {
        let old = numbers(1000);
        let mut new = old.clone();
        assert!(new.is_same(&old));
        new.insert(500, 0);
        let shared = |chunk: &&Arc<_>| old.chunks.iter().any(|other| Arc::ptr_eq(chunk, other));
        assert_eq!(new.chunks.iter().filter(shared).count() + 1, old.chunks.len());
        let looked = std::cell::Cell::new(0);
        let changes = old.changes(&new, |a, b| {
            looked.set(looked.get() + 1);
            a == b
        });
        assert_eq!(changes.count(), 1);
        assert!(looked.get() <= CHUNK, "{looked:?}");
    }

    #[test]
    fn what_shrinks_has_few_chunks() {
        let mut table = numbers(10_000);
        (0..10_000).filter(|n| n % 20 != 0).for_each(|n| {
            table.remove(&n);
        });
        assert_eq!(table.len(), 500);
        assert!(table.chunks.len() <= 500 / (SMALL / 2), "{}", table.chunks.len());
    }

    proptest! {
        #[test]
        fn it_is_a_map(
            first in prop::collection::vec((0..400_u16, any::<Option<u8>>()), 0..400),
            then in prop::collection::vec((0..400_u16, any::<Option<u8>>()), 0..60),
        ) {
            let change = |table: &mut Table<u16, u8>, map: &mut BTreeMap<u16, u8>, key: u16, value: Option<u8>| {
                match value {
                    Some(value) => prop_assert_eq!(table.insert(key, value), map.insert(key, value)),
                    None => prop_assert_eq!(table.remove(&key), map.remove(&key)),
                }
                prop_assert!(shape(table));
                Ok(())
            };
            let (mut old, mut old_map) = (Table::default(), BTreeMap::new());
            for (key, value) in first {
                change(&mut old, &mut old_map, key, value)?;
            }
            let (mut new, mut new_map) = (old.clone(), old_map.clone());
            for (key, value) in then {
                change(&mut new, &mut new_map, key, value)?;
            }
            for (table, map) in [(&old, &old_map), (&new, &new_map)] {
                prop_assert!(table.iter().eq(map.iter()));
                prop_assert!((0..400).all(|key| table.get(&key) == map.get(&key)));
            }
            let changes: Vec<_> = old.changes(&new, |a, b| a == b).map(|it| (*it.key, it.old, it.new)).collect();
            let expected: Vec<_> = (0..400_u16)
                .map(|key| (key, old_map.get(&key), new_map.get(&key)))
                .filter(|(_, old, new)| old != new)
                .collect();
            prop_assert_eq!(changes, expected);
        }
    }
}
