//! What is known of every resource by name, and who is interested.
//!
//! The data path asks for a resource with [`Store::watch`]; the first to ask makes the stream subscribe, and
//! when the last one is gone for a while the stream unsubscribes. Three parties put resources in:
//! - the proxy itself, and the bootstrap's static resources, with [`Store::publish`]: these names are never
//!   asked for upstream, and nothing upstream changes them;
//! - the bootstrap's first word on something that the server may replace, with [`Store::seed`];
//! - the stream, with [`Store::apply`] and [`Store::reject`].

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use weir_xds::ResourceType;

use super::dump::{Dumped, Owner, SharedDescriptors, Summary};
use crate::model::{Cluster, Endpoints, Listener, RouteTable, Secret};

/// What is known of a resource.
#[derive(Debug)]
pub enum State<T> {
    /// Asked for, no answer yet.
    Pending,
    /// The server says that there is none.
    Absent,
    /// The last good one.
    Ready(Arc<T>),
}

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Pending => Self::Pending,
            Self::Absent => Self::Absent,
            Self::Ready(value) => Self::Ready(value.clone()),
        }
    }
}

impl<T> State<T> {
    /// The resource, if there is one.
    pub fn ready(&self) -> Option<&Arc<T>> {
        match self {
            Self::Ready(value) => Some(value),
            _ => None,
        }
    }
}

/// A decoded resource that can be watched.
pub trait Stored: Send + Sync + 'static {
    /// Its type.
    const TYPE: ResourceType;
}

macro_rules! stored {
    ($model:ty, $kind:ident) => {
        impl Stored for $model {
            const TYPE: ResourceType = ResourceType::$kind;
        }
    };
}

stored!(Listener, Listener);
stored!(RouteTable, Route);
stored!(Cluster, Cluster);
stored!(Endpoints, Endpoints);
stored!(Secret, Secret);

/// A change in what the data path wants; the stream turns it into subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Someone watches this name now.
    Wanted(ResourceType, Arc<str>),
    /// No one watches it any more.
    Unwanted(ResourceType, Arc<str>),
}

/// A resource under watch. While one clone lives, the subscription does.
pub struct Watched<T> {
    state: watch::Receiver<State<T>>,
    _interest: Arc<Guard>,
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            _interest: self._interest.clone(),
        }
    }
}

impl<T> Watched<T> {
    /// What is known now.
    pub fn current(&self) -> State<T> {
        self.state.borrow().clone()
    }

    /// Waits until it changes. Pends for ever when the store is gone.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for an answer, and gives the resource or `None` when there is none. Bound it with a timeout.
    pub async fn answered(&mut self) -> Option<Arc<T>> {
        let answered = self
            .state
            .wait_for(|state| !matches!(state, State::Pending))
            .await;
        match answered {
            Ok(state) => state.ready().cloned(),
            Err(_) => None,
        }
    }
}

struct Guard {
    kind: ResourceType,
    name: Arc<str>,
    /// `None` for a name that the stream has no say in.
    interest: Option<mpsc::UnboundedSender<Interest>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(interest) = &self.interest {
            let _ = interest.send(Interest::Unwanted(self.kind, self.name.clone()));
        }
    }
}

/// Every known resource. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    entries: Arc<Mutex<Entries>>,
    interest: mpsc::UnboundedSender<Interest>,
    /// Whether there is no server to ask.
    sealed: Arc<AtomicBool>,
    arrivals: watch::Sender<()>,
}

type Entries = HashMap<(ResourceType, Arc<str>), Entry>;

/// A resource as it came: its version and its encoded message, for config dumps.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The server's version.
    pub version: String,
    /// The message; `None` for what must not be shown.
    pub message: Option<Arc<prost_types::Any>>,
}

struct Entry {
    /// A `watch::Sender<State<T>>` for the model of the key's type.
    sender: Box<dyn Any + Send>,
    guard: Weak<Guard>,
    owner: Owner,
    summary: Summary,
    source: Source,
    updated: Option<SystemTime>,
    error: Option<String>,
}

impl Store {
    /// An empty store, and the changes of interest for the stream to follow.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Interest>) {
        let (interest, changes) = mpsc::unbounded_channel();
        let store = Self {
            entries: Arc::default(),
            interest,
            sealed: Arc::default(),
            arrivals: watch::Sender::default(),
        };
        (store, changes)
    }

    /// Watches a resource, and makes the stream subscribe to it if no one watched it before.
    pub fn watch<T: Stored>(&self, name: &str) -> Watched<T> {
        let mut entries = self.entries.lock();
        let key: (ResourceType, Arc<str>) = (T::TYPE, name.into());
        let entry = entries.entry(key.clone()).or_insert_with(Entry::pending::<T>);
        if entry.owner == Owner::Stream && self.sealed.load(Ordering::Relaxed) {
            entry.owner = Owner::Local;
            entry.set::<T>(State::Absent, Source::default());
        }
        let interest = entry.guard.upgrade().unwrap_or_else(|| {
            let upstream = (entry.owner != Owner::Local).then(|| self.interest.clone());
            if let Some(interest) = &upstream {
                let _ = interest.send(Interest::Wanted(T::TYPE, key.1.clone()));
            }
            let guard = Arc::new(Guard {
                kind: T::TYPE,
                name: key.1,
                interest: upstream,
            });
            entry.guard = Arc::downgrade(&guard);
            guard
        });
        Watched {
            state: entry.sender::<T>().subscribe(),
            _interest: interest,
        }
    }

    /// What is known of a resource, without interest in it; `None` when no one asked for it.
    pub fn peek<T: Stored>(&self, name: &str) -> Option<State<T>> {
        let entries = self.entries.lock();
        let entry = entries.get(&(T::TYPE, Arc::from(name)))?;
        Some(entry.sender::<T>().borrow().clone())
    }

    /// Puts in a resource of the proxy's own: from now on the stream has no say in it. Watchers wake.
    pub fn publish<T: Stored>(&self, name: &str, state: State<T>) {
        self.put(name, state, Owner::Local, Source::default());
    }

    /// [`Store::publish`] for a static resource whose message is known.
    pub fn publish_from<T: Stored>(&self, name: &str, value: Arc<T>, source: Source) {
        self.put(name, State::Ready(value), Owner::Local, source);
    }

    /// Says that the proxy itself will publish this name, so that it is never asked for upstream.
    pub fn reserve<T: Stored>(&self, name: &str) {
        let mut entries = self.entries.lock();
        let entry = entries
            .entry((T::TYPE, name.into()))
            .or_insert_with(Entry::pending::<T>);
        entry.owner = Owner::Local;
    }

    /// Says that there is no server to ask: names that are not there are absent from now on.
    pub fn seal(&self) {
        self.sealed.store(true, Ordering::Relaxed);
    }

    /// Puts in what holds until the server has a word on it; the server's removal does not take it away.
    pub fn seed<T: Stored>(&self, name: &str, value: Arc<T>, source: Source) {
        self.put(name, State::Ready(value), Owner::Seed, source);
    }

    /// Puts in what the server says. Nothing happens for names of the proxy's own.
    pub fn apply<T: Stored>(&self, name: &str, state: State<T>, source: Source) {
        let mut entries = self.entries.lock();
        let entry = entries
            .entry((T::TYPE, name.into()))
            .or_insert_with(Entry::pending::<T>);
        match (entry.owner, &state) {
            (Owner::Local, _) | (Owner::Seed, State::Absent | State::Pending) => {}
            (Owner::Stream, State::Absent) if entry.summary == Summary::Absent => entry.error = None,
            _ => entry.set(state, source),
        }
        drop(entries);
        if matches!(T::TYPE, ResourceType::Listener | ResourceType::Cluster) {
            self.arrivals.send_replace(());
        }
    }

    /// Takes the server's word that there is no such resource.
    pub fn absent(&self, kind: ResourceType, name: &str) {
        match kind {
            ResourceType::Cluster => self.apply::<Cluster>(name, State::Absent, Source::default()),
            ResourceType::Endpoints => self.apply::<Endpoints>(name, State::Absent, Source::default()),
            ResourceType::Secret => self.apply::<Secret>(name, State::Absent, Source::default()),
            ResourceType::Listener => self.apply::<Listener>(name, State::Absent, Source::default()),
            ResourceType::Route => self.apply::<RouteTable>(name, State::Absent, Source::default()),
        }
    }

    /// Says that the server has such a resource, though it is not known yet what it says.
    pub fn expect(&self, kind: ResourceType, name: &str) {
        let pending = match kind {
            ResourceType::Cluster => Entry::pending::<Cluster>,
            ResourceType::Endpoints => Entry::pending::<Endpoints>,
            ResourceType::Secret => Entry::pending::<Secret>,
            ResourceType::Listener => Entry::pending::<Listener>,
            ResourceType::Route => Entry::pending::<RouteTable>,
        };
        let mut entries = self.entries.lock();
        entries.entry((kind, name.into())).or_insert_with(pending);
    }

    /// Every resource that the server has sent and that is in force, by name.
    pub fn served<T: Stored>(&self) -> BTreeMap<Arc<str>, Arc<T>> {
        let entries = self.entries.lock();
        let served = entries
            .iter()
            .filter(|((kind, _), entry)| *kind == T::TYPE && entry.owner == Owner::Stream);
        served
            .filter_map(|((_, name), entry)| {
                let state = entry.sender::<T>().borrow();
                Some((name.clone(), state.ready()?.clone()))
            })
            .collect()
    }

    /// Wakes when the server has sent or removed a listener or a cluster.
    pub fn arrivals(&self) -> watch::Receiver<()> {
        self.arrivals.subscribe()
    }

    /// Notes that the server sent a version that is not usable; the last good one stays in force.
    pub fn reject(&self, kind: ResourceType, name: &str, error: String) {
        if let Some(entry) = self.entries.lock().get_mut(&(kind, name.into())) {
            entry.error = Some(error);
        }
    }

    /// Forgets a resource that no one watches, and says whether the stream may unsubscribe.
    pub fn forget(&self, kind: ResourceType, name: &str) -> bool {
        let mut entries = self.entries.lock();
        let key = (kind, name.into());
        let Some(entry) = entries.get(&key) else {
            return true;
        };
        if entry.guard.strong_count() > 0 {
            return false;
        }
        if entry.owner == Owner::Stream {
            entries.remove(&key);
        }
        true
    }

    /// Every resource known or waited for, by type and name. Private keys are not in it.
    pub fn dump(&self) -> Vec<Dumped> {
        let descriptors = SharedDescriptors::default();
        let entries = self.entries.lock();
        let mut dumped: Vec<_> = entries
            .iter()
            .map(|((kind, name), entry)| Dumped {
                kind: *kind,
                name: name.clone(),
                owner: entry.owner,
                state: entry.summary,
                version: entry.source.version.clone(),
                updated: entry.updated,
                error: entry.error.clone(),
                message: entry.source.message.clone(),
                descriptors: descriptors.clone(),
            })
            .collect();
        drop(entries);
        dumped.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        dumped
    }

    fn put<T: Stored>(&self, name: &str, state: State<T>, owner: Owner, source: Source) {
        let mut entries = self.entries.lock();
        let entry = entries
            .entry((T::TYPE, name.into()))
            .or_insert_with(Entry::pending::<T>);
        entry.owner = owner;
        entry.set(state, source);
    }
}

impl Entry {
    fn pending<T: Stored>() -> Self {
        let (sender, _) = watch::channel::<State<T>>(State::Pending);
        Self {
            sender: Box::new(sender),
            guard: Weak::new(),
            owner: Owner::Stream,
            summary: Summary::Pending,
            source: Source::default(),
            updated: None,
            error: None,
        }
    }

    fn set<T: Stored>(&mut self, state: State<T>, source: Source) {
        self.summary = match &state {
            State::Pending => Summary::Pending,
            State::Absent => Summary::Absent,
            State::Ready(_) => Summary::Ready,
        };
        self.source = source;
        self.updated = Some(SystemTime::now());
        self.error = None;
        self.sender::<T>().send_replace(state);
    }

    fn sender<T: Stored>(&self) -> &watch::Sender<State<T>> {
        match self.sender.downcast_ref() {
            Some(sender) => sender,
            None => unreachable!("the key's resource type fixes the model's type"),
        }
    }
}

#[cfg(test)]
mod tests;
