//! What the stream is subscribed to: the names that are watched, and those not watched for a while yet. Pure;
//! time is passed in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_xds::ResourceType;

use super::Interest;

/// Names by type, what is known of each, and what the server has not been told yet.
#[derive(Debug)]
pub(super) struct Subscriptions {
    grace: Duration,
    types: BTreeMap<ResourceType, Names>,
    /// Names to look at again, in order of time.
    idle: VecDeque<(Instant, ResourceType, Arc<str>)>,
}

#[derive(Debug, Default)]
struct Names {
    known: BTreeMap<Arc<str>, Known>,
    subscribe: BTreeSet<Arc<str>>,
    unsubscribe: BTreeSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Version of the one in force; `None`: none is.
    version: Option<String>,
    idle_since: Option<Instant>,
    /// Whether it is in `idle`.
    queued: bool,
}

/// A change that the server has to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) kind: ResourceType,
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

impl Subscriptions {
    /// Names stay subscribed for `grace` after the last watcher.
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            types: BTreeMap::new(),
            idle: VecDeque::new(),
        }
    }

    /// Follows a change of interest.
    pub(super) fn follow(&mut self, interest: Interest, now: Instant) {
        match interest {
            Interest::Wanted(kind, name) => {
                let names = self.types.entry(kind).or_default();
                if let Some(known) = names.known.get_mut(&name) {
                    known.idle_since = None;
                    return;
                }
                names.known.insert(name.clone(), Known::default());
                // Told even when the server still counts it as subscribed: asking again makes it send again.
                names.unsubscribe.remove(&name);
                names.subscribe.insert(name);
            }
            Interest::Unwanted(kind, name) => {
                let known = self
                    .types
                    .get_mut(&kind)
                    .and_then(|names| names.known.get_mut(&name));
                let Some(known) = known else { return };
                known.idle_since = Some(now);
                if !known.queued {
                    known.queued = true;
                    self.idle.push_back((now + self.grace, kind, name));
                }
            }
        }
    }

    /// When [`Subscriptions::expire`] has something to do.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.idle.front().map(|(at, ..)| *at)
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
                Some(_) if forget(kind, &name) => {
                    names.known.remove(&name);
                    if !names.subscribe.remove(&name) {
                        names.unsubscribe.insert(name);
                    }
                }
                _ => known.idle_since = None,
            }
        }
    }

    /// Whether the name is subscribed to.
    pub(super) fn contains(&self, kind: ResourceType, name: &str) -> bool {
        self.types
            .get(&kind)
            .is_some_and(|names| names.known.contains_key(name))
    }

    /// Notes the version in force, or that there is none.
    pub(super) fn set_version(&mut self, kind: ResourceType, name: &str, version: Option<String>) {
        let known = self
            .types
            .get_mut(&kind)
            .and_then(|names| names.known.get_mut(name));
        if let Some(known) = known {
            known.version = version;
        }
    }

    /// Types with at least one name.
    pub(super) fn types(&self) -> Vec<ResourceType> {
        let used = self.types.iter().filter(|(_, names)| !names.known.is_empty());
        used.map(|(kind, _)| *kind).collect()
    }

    /// Every name of a type.
    pub(super) fn names(&self, kind: ResourceType) -> Vec<String> {
        let names = self
            .types
            .get(&kind)
            .into_iter()
            .flat_map(|names| names.known.keys());
        names.map(|name| name.to_string()).collect()
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
mod tests {
    use super::*;

    const KIND: ResourceType = ResourceType::Cluster;
    const GRACE: Duration = Duration::from_secs(60);

    fn wanted(name: &str) -> Interest {
        Interest::Wanted(KIND, name.into())
    }

    fn unwanted(name: &str) -> Interest {
        Interest::Unwanted(KIND, name.into())
    }

    fn change(subscribe: &[&str], unsubscribe: &[&str]) -> Vec<Change> {
        vec![Change {
            kind: KIND,
            subscribe: subscribe.iter().map(|name| (*name).to_owned()).collect(),
            unsubscribe: unsubscribe.iter().map(|name| (*name).to_owned()).collect(),
        }]
    }

    #[test]
    fn the_server_hears_of_a_name_once() {
        let mut subscriptions = Subscriptions::new(GRACE);
        let now = Instant::now();
        subscriptions.follow(wanted("a"), now);
        subscriptions.follow(wanted("a"), now);
        assert_eq!(subscriptions.take_changes(), change(&["a"], &[]));
        subscriptions.follow(unwanted("a"), now);
        subscriptions.follow(wanted("a"), now);
        assert_eq!(subscriptions.take_changes(), vec![]);
    }

    #[test]
    fn an_idle_name_is_given_up_after_the_grace() {
        let mut subscriptions = Subscriptions::new(GRACE);
        let start = Instant::now();
        subscriptions.follow(wanted("a"), start);
        subscriptions.take_changes();
        subscriptions.follow(unwanted("a"), start);
        subscriptions.expire(start + GRACE / 2, |_, _| true);
        assert!(subscriptions.contains(KIND, "a"));
        subscriptions.expire(start + GRACE, |_, _| true);
        assert_eq!(subscriptions.take_changes(), change(&[], &["a"]));
        assert_eq!(subscriptions.next_expiry(), None);
    }

    #[test]
    fn a_name_in_use_again_stays() {
        let mut subscriptions = Subscriptions::new(GRACE);
        let start = Instant::now();
        subscriptions.follow(wanted("a"), start);
        subscriptions.take_changes();
        subscriptions.follow(unwanted("a"), start);
        subscriptions.follow(wanted("a"), start);
        subscriptions.follow(unwanted("a"), start + GRACE / 2);
        subscriptions.expire(start + GRACE, |_, _| true);
        assert!(subscriptions.contains(KIND, "a"));
        subscriptions.expire(start + GRACE * 2, |_, _| false);
        assert!(subscriptions.contains(KIND, "a"));
        assert_eq!(subscriptions.take_changes(), vec![]);
    }

    #[test]
    fn a_name_given_up_before_it_was_told_is_never_told() {
        let mut subscriptions = Subscriptions::new(GRACE);
        let start = Instant::now();
        subscriptions.follow(wanted("a"), start);
        subscriptions.follow(unwanted("a"), start);
        subscriptions.expire(start + GRACE, |_, _| true);
        assert_eq!(subscriptions.take_changes(), vec![]);
    }
}
