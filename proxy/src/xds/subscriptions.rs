//! What the stream is subscribed to: the names that are watched, and those not watched for a while yet; of some types
//! everything instead, whatever its names. Pure; time is passed in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_xds::ResourceType;

use super::Interest;

/// What is taken of a type of which everything is asked for.
pub(super) const MOST_NAMES: usize = 100_000;
/// How long a cluster may be on its way that a route names already. Listeners are not waited for: most addresses that
/// an application dials have none.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// Names by type, what is known of each, and what the server has not been told yet.
#[derive(Debug)]
pub(super) struct Subscriptions {
    grace: Duration,
    types: BTreeMap<ResourceType, Names>,
    /// Names to look at again, in order of time.
    idle: VecDeque<(Instant, ResourceType, Arc<str>)>,
    /// Names that may still be on their way, in order of the time when they are given up.
    awaited: VecDeque<(Instant, ResourceType, Arc<str>)>,
}

#[derive(Debug, Default)]
struct Names {
    /// Whether everything is asked for, and no names.
    wildcard: bool,
    /// Whether the server has sent everything, so that what it did not send is not there.
    complete: bool,
    known: BTreeMap<Arc<str>, Known>,
    subscribe: BTreeSet<Arc<str>>,
    unsubscribe: BTreeSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Version of the one in force; `None`: none is.
    version: Option<String>,
    /// Whether there is one at the server, of a type of which everything is asked for.
    sent: bool,
    /// Until when it may be on its way though everything of its type was sent.
    awaited_until: Option<Instant>,
    idle_since: Option<Instant>,
    /// Whether it is in `idle`.
    queued: bool,
}

impl Known {
    /// Whether there is none at a server that has sent everything.
    fn is_absent(&self, now: Instant) -> bool {
        !self.sent && self.awaited_until.is_none_or(|until| until <= now)
    }
}

/// A change that the server has to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) kind: ResourceType,
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

impl Subscriptions {
    /// Names stay subscribed for `grace` after the last watcher. Of the types in `wildcard` everything is asked for.
    pub(super) fn new(grace: Duration, wildcard: &BTreeSet<ResourceType>) -> Self {
        let whole = || Names {
            wildcard: true,
            ..Names::default()
        };
        Self {
            grace,
            types: wildcard.iter().map(|kind| (*kind, whole())).collect(),
            idle: VecDeque::new(),
            awaited: VecDeque::new(),
        }
    }

    /// Follows a change of interest. `true`: a name is wanted of which it is known already that there is no such
    /// resource.
    #[must_use]
    pub(super) fn follow(&mut self, interest: &Interest, now: Instant) -> bool {
        match interest {
            Interest::Wanted(kind, name) => {
                let names = self.types.entry(*kind).or_default();
                if let Some(known) = names.known.get_mut(name) {
                    known.idle_since = None;
                } else {
                    let until = (names.wildcard && *kind == ResourceType::Cluster).then(|| now + ON_ITS_WAY);
                    if let Some(until) = until {
                        self.awaited.push_back((until, *kind, name.clone()));
                    }
                    let known = Known {
                        awaited_until: until,
                        ..Known::default()
                    };
                    names.known.insert(name.clone(), known);
                    // Told even when the server still counts it as subscribed: asking again makes it send again.
                    names.unsubscribe.remove(name);
                    if !names.wildcard {
                        names.subscribe.insert(name.clone());
                    }
                }
                names.complete && names.known.get(name).is_some_and(|known| known.is_absent(now))
            }
            Interest::Unwanted(kind, name) => {
                self.idle(*kind, name, now);
                false
            }
        }
    }

    /// Looks at a name again after the grace.
    fn idle(&mut self, kind: ResourceType, name: &str, now: Instant) {
        let Some(names) = self.types.get_mut(&kind) else {
            return;
        };
        let name: Arc<str> = name.into();
        let Some(known) = names.known.get_mut(&name) else {
            return;
        };
        known.idle_since = Some(now);
        if !known.queued {
            known.queued = true;
            self.idle.push_back((now + self.grace, kind, name));
        }
    }

    /// When [`Subscriptions::expire`] has something to do.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let (idle, awaited) = (self.idle.front(), self.awaited.front());
        idle.into_iter().chain(awaited).map(|(at, ..)| *at).min()
    }

    /// Takes a name that did not come in time, though the server has sent everything else of its type.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<(ResourceType, Arc<str>)> {
        while self.awaited.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, kind, name) = self.awaited.pop_front()?;
            let names = self.types.get(&kind).filter(|names| names.complete);
            let known = names.and_then(|names| names.known.get(&name));
            if known.is_some_and(|known| known.is_absent(now)) {
                return Some((kind, name));
            }
        }
        None
    }

    /// Gives up names that were idle for the whole grace and that `forget` lets go. It may refuse: a watcher
    /// may have come whose word is still under way.
    pub(super) fn expire(&mut self, now: Instant, mut forget: impl FnMut(ResourceType, &str) -> bool) {
        while let Some((at, kind, name)) = self.idle.pop_front() {
            if at > now {
                self.idle.push_front((at, kind, name));
                return;
            }
            let Some(names) = self.types.get_mut(&kind) else {
                continue;
            };
            let Some(known) = names.known.get_mut(&name) else {
                continue;
            };
            known.queued = false;
            match known.idle_since {
                Some(since) if since + self.grace > now => {
                    known.queued = true;
                    self.idle.push_back((now + self.grace, kind, name));
                }
                Some(_) if known.sent => known.idle_since = None,
                Some(_) if forget(kind, &name) => {
                    names.known.remove(&name);
                    if !names.subscribe.remove(&name) && !names.wildcard {
                        names.unsubscribe.insert(name);
                    }
                }
                _ => known.idle_since = None,
            }
        }
    }

    /// Whether the name is subscribed to, or part of everything.
    pub(super) fn contains(&self, kind: ResourceType, name: &str) -> bool {
        let names = self.types.get(&kind);
        names.is_some_and(|names| {
            names.known.contains_key(name) || (names.wildcard && names.known.len() < MOST_NAMES)
        })
    }

    /// Whether there is one of this name in force.
    pub(super) fn in_force(&self, kind: ResourceType, name: &str) -> bool {
        let known = self.types.get(&kind).and_then(|names| names.known.get(name));
        known.is_some_and(|known| known.version.is_some())
    }

    /// Whether everything of this type is asked for.
    pub(super) fn wildcard(&self, kind: ResourceType) -> bool {
        self.types.get(&kind).is_some_and(|names| names.wildcard)
    }

    /// Notes the version that the server sent and that is in force now.
    pub(super) fn arrived(&mut self, kind: ResourceType, name: &str, version: String) {
        if let Some(known) = self.sent(kind, name) {
            known.version = Some(version);
        }
    }

    /// Notes that the server has such a resource, but none that is usable.
    pub(super) fn refused(&mut self, kind: ResourceType, name: &str) {
        self.sent(kind, name);
    }

    /// Notes that there is none in force any more, and says whether anyone may have to know.
    pub(super) fn gone(&mut self, kind: ResourceType, name: &str, now: Instant) -> bool {
        let names = self.types.get_mut(&kind);
        let Some(known) = names.and_then(|names| names.known.get_mut(name)) else {
            return false;
        };
        known.version = None;
        if std::mem::take(&mut known.sent) {
            self.idle(kind, name, now);
        }
        true
    }

    /// Notes that the server has sent everything of this type, if that was asked for.
    pub(super) fn complete(&mut self, kind: ResourceType) {
        if let Some(names) = self.types.get_mut(&kind) {
            names.complete = names.wildcard;
        }
    }

    /// What is known of a name that the server has sent; `None` when it was not asked for.
    fn sent(&mut self, kind: ResourceType, name: &str) -> Option<&mut Known> {
        let names = self.types.get_mut(&kind)?;
        if names.wildcard && !names.known.contains_key(name) {
            names.known.insert(name.into(), Known::default());
        }
        let known = names.known.get_mut(name)?;
        known.sent = names.wildcard;
        known.awaited_until = None;
        Some(known)
    }

    /// Types of which something is asked for.
    pub(super) fn types(&self) -> Vec<ResourceType> {
        let used = self.types.iter();
        let used = used.filter(|(_, names)| names.wildcard || !names.known.is_empty());
        used.map(|(kind, _)| *kind).collect()
    }

    /// Every name of a type that the server is told; none where everything is asked for.
    pub(super) fn names(&self, kind: ResourceType) -> Vec<String> {
        match self.wildcard(kind) {
            true => Vec::new(),
            false => self.all(kind),
        }
    }

    fn all(&self, kind: ResourceType) -> Vec<String> {
        let names = self.types.get(&kind).into_iter();
        let names = names.flat_map(|names| names.known.keys());
        names.map(|name| name.to_string()).collect()
    }

    /// Names that a full set has to have, or what they stand for is gone.
    pub(super) fn expected(&self, kind: ResourceType) -> Vec<String> {
        let names = self.types.get(&kind).into_iter();
        let expected = names.flat_map(|names| {
            let expected = names.known.iter();
            expected.filter(|(_, known)| !names.wildcard || known.sent)
        });
        expected.map(|(name, _)| name.to_string()).collect()
    }

    /// Names that are wanted and that the server did not send, though it has sent everything of their type.
    pub(super) fn absent(&self, kind: ResourceType, now: Instant) -> Vec<String> {
        let names = self.types.get(&kind).filter(|names| names.complete).into_iter();
        let absent = names.flat_map(|names| names.known.iter().filter(|(_, known)| known.is_absent(now)));
        absent.map(|(name, _)| name.to_string()).collect()
    }

    /// The versions in force, of the names that have one.
    pub(super) fn versions(&self, kind: ResourceType) -> BTreeMap<String, String> {
        let known = self.types.get(&kind).into_iter().flat_map(|names| &names.known);
        known
            .filter_map(|(name, known)| Some((name.to_string(), known.version.clone()?)))
            .collect()
    }

    /// What the server has to be told since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        let strings = |names: &mut BTreeSet<Arc<str>>| -> Vec<String> {
            std::mem::take(names)
                .iter()
                .map(|name| name.to_string())
                .collect()
        };
        self.types
            .iter_mut()
            .filter(|(_, names)| !names.subscribe.is_empty() || !names.unsubscribe.is_empty())
            .map(|(kind, names)| Change {
                kind: *kind,
                subscribe: strings(&mut names.subscribe),
                unsubscribe: strings(&mut names.unsubscribe),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
