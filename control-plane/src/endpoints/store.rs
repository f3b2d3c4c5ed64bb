//! What was last read from each file, and which of two objects of the same name counts. Pure.
//!
//! - A later directory wins over an earlier one for the same object.
//! - Within a directory the first file by name, then the first document, wins; the other gets a warning.
//! - A file that does not parse changes nothing: what was last read from it stays in force.
//! - An object that is not valid leaves the last good version of it from the same file in force.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use super::Objects;
use crate::spec::{self, Diagnostic, Document, Finding, Key, Object, Severity, Source};

/// Files read so far.
#[derive(Debug, Default)]
pub struct Store {
    directories: Vec<BTreeMap<Arc<str>, File>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct File {
    entries: Vec<Entry>,
    /// Why the file as a whole could not be read.
    broken: Option<Diagnostic>,
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
            hasher: RandomState::new(),
        }
    }

    /// The files of a directory that were read and not removed.
    pub fn files(&self, directory: usize) -> impl Iterator<Item = &Arc<str>> {
        self.directories
            .get(directory)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }

    /// Takes a file's new text.
    pub fn put(&mut self, directory: usize, file: &str, text: &str) {
        let Some(files) = self.directories.get_mut(directory) else {
            return;
        };
        let name: Arc<str> = files
            .get_key_value(file)
            .map_or_else(|| file.into(), |(name, _)| name.clone());
        let state = files.entry(name.clone()).or_default();
        match read_file(&name, text, &state.entries, &self.hasher) {
            Ok(entries) => {
                *state = File {
                    entries,
                    broken: None,
                }
            }
            Err(broken) => state.broken = Some(*broken),
        }
    }

    /// Notes that a file is there but cannot be read.
    pub fn unreadable(&mut self, directory: usize, file: &str, why: &str) {
        let Some(files) = self.directories.get_mut(directory) else {
            return;
        };
        let state = files.entry(file.into()).or_default();
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
    }

    /// Forgets a file and its objects.
    pub fn remove(&mut self, directory: usize, file: &str) {
        if let Some(files) = self.directories.get_mut(directory) {
            files.remove(file);
        }
    }

    /// Every object in force.
    #[must_use]
    pub fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        let mut diagnostics = Vec::new();
        let mut holders: HashMap<&Key, (usize, &Arc<str>)> = HashMap::new();
        for (directory, files) in self.directories.iter().enumerate().rev() {
            for (name, file) in files {
                diagnostics.extend(file.broken.clone());
                for entry in &file.entries {
                    if file.broken.is_none() {
                        diagnostics.extend_from_slice(&entry.diagnostics);
                    }
                    let (Some(key), Some(object)) = (&entry.key, &entry.object) else {
                        continue;
                    };
                    match holders.get(key) {
                        None => {
                            holders.insert(key, (directory, name));
                            objects.insert(key.name.clone(), object.clone());
                        }
                        Some((holder, first)) if *holder == directory => {
                            diagnostics.push(duplicate(key, name, entry.line, first));
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        diagnostics.sort();
        objects.diagnostics = Arc::new(diagnostics);
        objects
    }
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
