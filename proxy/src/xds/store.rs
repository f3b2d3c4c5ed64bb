//! What is known of every resource by name, and who is interested.
//!
//! The data path asks for a resource with [`Store::watch`]; the first to ask makes the stream subscribe, and
//! when the last one is gone for a while the stream unsubscribes. Static resources from the bootstrap are
//! put in with [`Store::publish`] and need no stream.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use weir_xds::ResourceType;

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
    interest: mpsc::UnboundedSender<Interest>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self
            .interest
            .send(Interest::Unwanted(self.kind, self.name.clone()));
    }
}

/// Every known resource. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    entries: Arc<Mutex<HashMap<(ResourceType, Arc<str>), Entry>>>,
    interest: mpsc::UnboundedSender<Interest>,
}

struct Entry {
    /// A `watch::Sender<State<T>>` for the model of the key's type.
    sender: Box<dyn Any + Send>,
    guard: Weak<Guard>,
}

impl Store {
    /// An empty store, and the changes of interest for the stream to follow.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Interest>) {
        let (interest, changes) = mpsc::unbounded_channel();
        let store = Self {
            entries: Arc::default(),
            interest,
        };
        (store, changes)
    }

    /// Watches a resource, and makes the stream subscribe to it if no one watched it before.
    pub fn watch<T: Stored>(&self, name: &str) -> Watched<T> {
        let mut entries = self.entries.lock();
        let key: (ResourceType, Arc<str>) = (T::TYPE, name.into());
        let entry = entries.entry(key.clone()).or_insert_with(Entry::pending::<T>);
        let interest = entry.guard.upgrade().unwrap_or_else(|| {
            let guard = Arc::new(Guard {
                kind: T::TYPE,
                name: key.1,
                interest: self.interest.clone(),
            });
            entry.guard = Arc::downgrade(&guard);
            let _ = self.interest.send(Interest::Wanted(T::TYPE, guard.name.clone()));
            guard
        });
        Watched {
            state: entry.sender::<T>().subscribe(),
            _interest: interest,
        }
    }

    /// Puts in what the server (or the bootstrap) says of a resource; watchers wake.
    pub fn publish<T: Stored>(&self, name: &str, state: State<T>) {
        let mut entries = self.entries.lock();
        let entry = entries
            .entry((T::TYPE, name.into()))
            .or_insert_with(Entry::pending::<T>);
        entry.sender::<T>().send_replace(state);
    }

    /// Forgets a resource that no one watches.
    pub fn forget(&self, kind: ResourceType, name: &str) {
        let mut entries = self.entries.lock();
        let key = (kind, name.into());
        if entries
            .get(&key)
            .is_some_and(|entry| entry.guard.strong_count() == 0)
        {
            entries.remove(&key);
        }
    }
}

impl Entry {
    fn pending<T: Stored>() -> Self {
        let (sender, _) = watch::channel::<State<T>>(State::Pending);
        Self {
            sender: Box::new(sender),
            guard: Weak::new(),
        }
    }

    fn sender<T: Stored>(&self) -> &watch::Sender<State<T>> {
        match self.sender.downcast_ref() {
            Some(sender) => sender,
            None => unreachable!("the key's resource type fixes the model's type"),
        }
    }
}
