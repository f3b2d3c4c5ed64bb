//! What was last read from each file, and which of two objects of the same name counts. Pure.
//!
//! - A later directory wins over an earlier one for the same object.
//! - Within a directory the first file by name, then the first document, wins; the other gets a warning.
//! - A file that does not parse changes nothing: what was last read from it stays in force.
//! - An object that is not valid leaves the last good version of it from the same file in force.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Arc, OnceLock},
};

use super::Objects;
use crate::spec::{self, Diagnostic, Document, Finding, Key, Object, Severity, Source};

/// Files read so far, and the objects in force. A file's change costs as much as the file has.
#[derive(Debug, Default)]
pub struct Store {
    directories: Vec<BTreeMap<Arc<str>, File>>,
    hasher: RandomState,
    /// Everyone who has an object of a name, the one that counts first.
    claims: HashMap<Key, BTreeMap<Place, Claim>>,
    /// What is wrong with the files that have something wrong.
    wrong: BTreeMap<(usize, Arc<str>), Vec<Diagnostic>>,
    /// What is told of those that do not count.
    duplicates: BTreeMap<Key, Vec<Diagnostic>>,
    /// The objects in force, without what is wrong.
    objects: Objects,
    diagnostics: OnceLock<Arc<Vec<Diagnostic>>>,
}

/// Where an object stands: directory, file and document. What is lower counts.
type Place = (Reverse<usize>, Arc<str>, usize);

#[derive(Clone, Debug)]
struct Claim {
    object: Object,
    line: u32,
}

#[derive(Debug, Default)]
struct File {
    entries: Vec<Entry>,
    /// Why the file as a whole could not be read.
    broken: Option<Diagnostic>,
}

impl File {
    /// What is wrong with it.
    fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        let of_entries = self.entries.iter().filter(|_| self.broken.is_none());
        let of_entries = of_entries.flat_map(|entry| &entry.diagnostics);
        self.broken.iter().chain(of_entries)
    }
}

#[derive(Clone, Debug)]
struct Entry {
    line: u32,
    hash: u64,
    key: Option<Key>,
    object: Option<Object>,
    diagnostics: Vec<Diagnostic>,
}

impl Store {
    /// An empty store of so many directories.
    #[must_use]
    pub fn new(directories: usize) -> Self {
        Self {
            directories: std::iter::repeat_with(BTreeMap::new).take(directories).collect(),
            ..Self::default()
        }
    }

    /// The files of a directory that were read and not removed.
    pub fn files(&self, directory: usize) -> impl Iterator<Item = &Arc<str>> {
        self.directories
            .get(directory)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }

    /// Takes a file's new text. Whether it changed anything.
    pub fn put(&mut self, directory: usize, file: &str, text: &str) -> bool {
        let Some(files) = self.directories.get_mut(directory) else {
            return false;
        };
        let name: Arc<str> = files
            .get_key_value(file)
            .map_or_else(|| file.into(), |(name, _)| name.clone());
        let state = files.entry(name.clone()).or_default();
        match read_file(&name, text, &state.entries, &self.hasher) {
            Ok(entries) if state.broken.is_none() && same(&entries, &state.entries) => return false,
            Ok(entries) => {
                state.broken = None;
                let last = std::mem::replace(&mut state.entries, entries);
                self.settle(directory, &name, &last);
            }
            Err(broken) => state.broken = Some(*broken),
        }
        self.note(directory, &name);
        true
    }

    /// Notes that a file is there but cannot be read.
    pub fn unreadable(&mut self, directory: usize, file: &str, why: &str) {
        let Some(files) = self.directories.get_mut(directory) else {
            return;
        };
        let name: Arc<str> = file.into();
        let state = files.entry(name.clone()).or_default();
        state.broken = Some(Diagnostic {
            file: file.into(),
            line: 1,
            column: 1,
            severity: Severity::Error,
            object: String::new(),
            field: String::new(),
            message: format!("the file cannot be read: {why}"),
            remedy: "make it readable UTF-8 text; until then everything last read from it stays in force"
                .to_owned(),
        });
        self.note(directory, &name);
    }

    /// Forgets a file and its objects. Whether there was one.
    pub fn remove(&mut self, directory: usize, file: &str) -> bool {
        let gone = self.directories.get_mut(directory);
        let Some((name, gone)) = gone.and_then(|files| files.remove_entry(file)) else {
            return false;
        };
        self.settle(directory, &name, &gone.entries);
        self.note(directory, &name);
        true
    }

    /// Every object in force.
    #[must_use]
    pub fn objects(&self) -> Objects {
        let gather = || {
            let wrong = self.wrong.values().chain(self.duplicates.values());
            let mut all: Vec<_> = wrong.flatten().cloned().collect();
            all.sort();
            Arc::new(all)
        };
        Objects {
            diagnostics: self.diagnostics.get_or_init(gather).clone(),
            ..self.objects.clone()
        }
    }

    /// Keeps what is wrong with a file.
    fn note(&mut self, directory: usize, name: &Arc<str>) {
        let file = self.directories.get(directory).and_then(|files| files.get(name));
        let now: Vec<Diagnostic> = file.into_iter().flat_map(File::diagnostics).cloned().collect();
        if replace(&mut self.wrong, (directory, name.clone()), now) {
            self.diagnostics.take();
        }
    }

    /// Takes a file's objects in, in place of those that it had.
    fn settle(&mut self, directory: usize, name: &Arc<str>, last: &[Entry]) {
        let place = |at| (Reverse(directory), name.clone(), at);
        let mut touched: BTreeSet<Key> = BTreeSet::new();
        for (at, entry) in last.iter().enumerate() {
            if let Some(key) = entry.key.as_ref().filter(|_| entry.object.is_some()) {
                if let Some(claims) = self.claims.get_mut(key) {
                    claims.remove(&place(at));
                }
                touched.insert(key.clone());
            }
        }
        let files = self.directories.get(directory);
        let entries = files
            .and_then(|files| files.get(name))
            .map_or(&[][..], |file| &file.entries);
        for (at, entry) in entries.iter().enumerate() {
            if let (Some(key), Some(object)) = (&entry.key, &entry.object) {
                let claim = Claim {
                    object: object.clone(),
                    line: entry.line,
                };
                self.claims
                    .entry(key.clone())
                    .or_default()
                    .insert(place(at), claim);
                touched.insert(key.clone());
            }
        }
        touched.into_iter().for_each(|key| self.decide(key));
    }

    /// Which object of a name counts.
    fn decide(&mut self, key: Key) {
        let claims = self.claims.get(&key);
        let Some(((directory, first, _), claim)) = claims.and_then(BTreeMap::first_key_value) else {
            self.claims.remove(&key);
            self.objects.remove(key.kind, &key.name);
            if replace(&mut self.duplicates, key, Vec::new()) {
                self.diagnostics.take();
            }
            return;
        };
        self.objects.insert(key.name.clone(), claim.object.clone());
        let others = claims.into_iter().flatten().skip(1);
        let beside = others.filter(|((other, ..), _)| other == directory);
        let told: Vec<Diagnostic> = beside
            .map(|((_, file, _), claim)| duplicate(&key, file, claim.line, first))
            .collect();
        if replace(&mut self.duplicates, key, told) {
            self.diagnostics.take();
        }
    }
}

/// Keeps what is wrong with something, if anything is. Whether that is news.
fn replace<K: Ord>(all: &mut BTreeMap<K, Vec<Diagnostic>>, of: K, now: Vec<Diagnostic>) -> bool {
    if all.get(&of).map_or(&[][..], Vec::as_slice) == now {
        return false;
    }
    match now.is_empty() {
        true => all.remove(&of),
        false => all.insert(of, now),
    };
    true
}

/// Whether nothing was read anew.
fn same(now: &[Entry], last: &[Entry]) -> bool {
    let places = |entries: &[Entry]| entries.iter().map(|it| (it.line, it.hash)).collect::<Vec<_>>();
    places(now) == places(last)
}

fn duplicate(key: &Key, file: &Arc<str>, line: u32, first: &str) -> Diagnostic {
    let source = Source {
        file: file.clone(),
        line,
        text: Arc::default(),
    };
    let finding = Finding::warning(
        "metadata.name",
        format!("the object is already in {first}; this one is ignored"),
        "remove one of them, or rename it",
    );
    source.diagnostic(key.to_string(), finding)
}

fn read_file(
    name: &Arc<str>,
    text: &str,
    last: &[Entry],
    hasher: &RandomState,
) -> Result<Vec<Entry>, Box<Diagnostic>> {
    let same: HashMap<(u32, u64), &Entry> = last
        .iter()
        .map(|entry| ((entry.line, entry.hash), entry))
        .collect();
    let mut entries = Vec::new();
    for (line, text) in spec::split(text) {
        let hash = hasher.hash_one(&text);
        if let Some(entry) = same.get(&(line, hash)) {
            entries.push((*entry).clone());
            continue;
        }
        let source = Source {
            file: name.clone(),
            line,
            text: text.into(),
        };
        let (key, object, diagnostics) = match spec::read(&source)? {
            Document::Other(diagnostic) => (None, None, diagnostic.into_iter().collect()),
            Document::Object(key, object, diagnostics) => (Some(key), Some(object), diagnostics),
            Document::Invalid(key, diagnostics) => {
                let good = last.iter().find(|entry| entry.key.as_ref() == Some(&key));
                let object = good.and_then(|entry| entry.object.clone());
                (Some(key), object, diagnostics)
            }
        };
        entries.push(Entry {
            line,
            hash,
            key,
            object,
            diagnostics,
        });
    }
    Ok(entries)
}
