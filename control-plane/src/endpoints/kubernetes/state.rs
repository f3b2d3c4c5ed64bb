//! What is known of the cluster: the last good version of each object. Pure: changes in, objects out.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    super::Objects,
    item::Read,
    kinds::{KINDS, Kind},
    watch::{Change, What},
};
use crate::spec::{Diagnostic, Key, ObjectName};

/// The objects of a cluster.
#[derive(Debug)]
pub(super) struct State {
    objects: Objects,
    wrong: BTreeMap<Key, Vec<Diagnostic>>,
    /// Kinds that were not listed yet.
    unlisted: BTreeSet<&'static str>,
}

/// What a change came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Added,
    Updated,
    Deleted,
    /// Something else than an object.
    Other,
    None,
}

impl Default for State {
    fn default() -> Self {
        Self {
            objects: Objects::default(),
            wrong: BTreeMap::new(),
            unlisted: KINDS.iter().map(|kind| kind.name).collect(),
        }
    }
}

impl State {
    /// Whether every kind was listed once.
    pub(super) fn is_complete(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// The objects now. Costs as much as what is wrong with them; tables are shared until they change.
    pub(super) fn objects(&self) -> Objects {
        let mut objects = self.objects.clone();
        let mut diagnostics: Vec<Diagnostic> = self.wrong.values().flatten().cloned().collect();
        diagnostics.sort();
        objects.diagnostics = Arc::new(diagnostics);
        objects
    }

    /// Takes a change in.
    pub(super) fn apply(&mut self, Change { kind, what }: Change) -> Effect {
        match what {
            What::Put(read) => self.put(kind, *read),
            What::Gone(name) => self.remove(kind, &name),
            What::Listed(names) => {
                let mut effect = self.listed(kind);
                if self.objects.missing.remove(kind.name) {
                    effect = Effect::Other;
                }
                if self.keep_only(kind, &names) {
                    effect = Effect::Other;
                }
                effect
            }
            What::Absent => {
                self.listed(kind);
                self.keep_only(kind, &HashSet::new());
                self.objects.missing.insert(kind.name);
                Effect::Other
            }
        }
    }

    fn listed(&mut self, kind: &Kind) -> Effect {
        match self.unlisted.remove(kind.name) {
            true => Effect::Other,
            false => Effect::None,
        }
    }

    fn put(&mut self, kind: &'static Kind, read: Read) -> Effect {
        let key = Key {
            kind: kind.name,
            name: read.name,
        };
        let known = self.knows(&key);
        let mut changed = false;
        if let Some(revision) = read.revision {
            let last = self.objects.policies.get(&key);
            // A malformed successor inherits nothing from an object of the same name.
            if last.is_some_and(|last| last.uid != revision.uid) && read.object.is_none() {
                changed |= self.objects.remove(kind.name, &key.name);
            }
            let last = self.objects.policies.get(&key);
            if last.is_none_or(|last| **last != revision) {
                self.objects.policies.insert(key.clone(), Arc::new(revision));
                changed = true;
            }
        }
        if let Some(object) = read.object {
            changed |= self.objects.insert(key.name.clone(), object);
        }
        changed |= match read.diagnostics.is_empty() {
            true => self.wrong.remove(&key).is_some(),
            false if self.wrong.get(&key) == Some(&read.diagnostics) => false,
            false => {
                self.wrong.insert(key, read.diagnostics);
                true
            }
        };
        match (changed, known) {
            (false, _) => Effect::None,
            (true, true) => Effect::Updated,
            (true, false) => Effect::Added,
        }
    }

    fn knows(&self, key: &Key) -> bool {
        self.wrong.contains_key(key)
            || self.objects.policies.contains_key(key)
            || self.objects.contains(key.kind, &key.name)
    }

    fn remove(&mut self, kind: &'static Kind, name: &ObjectName) -> Effect {
        let key = Key {
            kind: kind.name,
            name: name.clone(),
        };
        let mut changed = self.objects.remove(kind.name, name);
        changed |= self.wrong.remove(&key).is_some();
        changed |= self.objects.policies.remove(&key).is_some();
        match changed {
            true => Effect::Deleted,
            false => Effect::None,
        }
    }

    /// Forgets the objects of a kind that are not named. Whether there were any.
    fn keep_only(&mut self, kind: &'static Kind, names: &HashSet<ObjectName>) -> bool {
        let of_kind = |key: &&Key| key.kind == kind.name;
        let mut gone = self.objects.names(kind.name);
        gone.extend(self.wrong.keys().filter(of_kind).map(|key| key.name.clone()));
        gone.extend(
            self.objects
                .policies
                .keys()
                .filter(of_kind)
                .map(|key| key.name.clone()),
        );
        gone.retain(|name| !names.contains(name));
        for name in &gone {
            self.remove(kind, name);
        }
        !gone.is_empty()
    }
}
