//! How the stream fares, for metrics and the admin page.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use weir_xds::ResourceType;

/// A shared view of the stream's state. Cheap to clone and to read.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    connected: AtomicBool,
    /// Milliseconds since the Unix epoch; 0: never.
    last_update: AtomicU64,
    /// The same, of the last stream's end.
    last_heard: AtomicU64,
    connects: AtomicU64,
    failures: AtomicU64,
    types: [PerType; ResourceType::ALL.len()],
    last_error: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct PerType {
    acks: AtomicU64,
    nacks: AtomicU64,
    ignored_fields: AtomicU64,
    version: Mutex<String>,
    last_error: Mutex<Option<String>>,
}

/// What happened to one resource type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// Responses taken whole.
    pub acks: u64,
    /// Responses with at least one resource refused.
    pub nacks: u64,
    /// Settings that were accepted without effect.
    pub ignored_fields: u64,
    /// The server's version of the last response taken whole; empty when it gives none.
    pub version: String,
    /// Why the last refused response was refused.
    pub last_error: Option<String>,
}

impl Status {
    /// Whether the stream is up.
    pub fn connected(&self) -> bool {
        self.0.connected.load(Ordering::Relaxed)
    }

    /// When the server last said something that was taken.
    pub fn last_update(&self) -> Option<SystemTime> {
        time(&self.0.last_update)
    }

    /// When the last stream was lost; `None` before.
    pub fn last_heard(&self) -> Option<SystemTime> {
        time(&self.0.last_heard)
    }

    /// Streams opened so far.
    pub fn connects(&self) -> u64 {
        self.0.connects.load(Ordering::Relaxed)
    }

    /// Streams that failed or could not be opened.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Why the last stream failed.
    pub fn last_error(&self) -> Option<String> {
        self.0.last_error.lock().clone()
    }

    /// What happened to a resource type.
    pub fn of(&self, kind: ResourceType) -> TypeStatus {
        let per_type = self.per_type(kind);
        TypeStatus {
            acks: per_type.acks.load(Ordering::Relaxed),
            nacks: per_type.nacks.load(Ordering::Relaxed),
            ignored_fields: per_type.ignored_fields.load(Ordering::Relaxed),
            version: per_type.version.lock().clone(),
            last_error: per_type.last_error.lock().clone(),
        }
    }

    pub(crate) fn opened(&self) {
        self.0.connected.store(true, Ordering::Relaxed);
        self.0.connects.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, error: &str) {
        if self.0.connected.swap(false, Ordering::Relaxed) {
            self.0.last_heard.store(now(), Ordering::Relaxed);
        }
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        *self.0.last_error.lock() = Some(error.to_owned());
    }

    pub(crate) fn acked(&self, kind: ResourceType, version: &str, ignored: usize) {
        let per_type = self.per_type(kind);
        per_type.acks.fetch_add(1, Ordering::Relaxed);
        per_type
            .ignored_fields
            .fetch_add(ignored as u64, Ordering::Relaxed);
        version.clone_into(&mut per_type.version.lock());
        self.touch();
    }

    pub(crate) fn nacked(&self, kind: ResourceType, error: &str) {
        let per_type = self.per_type(kind);
        per_type.nacks.fetch_add(1, Ordering::Relaxed);
        *per_type.last_error.lock() = Some(error.to_owned());
        self.touch();
    }

    fn touch(&self) {
        self.0.last_update.store(now(), Ordering::Relaxed);
    }

    fn per_type(&self, kind: ResourceType) -> &PerType {
        let index = match kind {
            ResourceType::Cluster => 0,
            ResourceType::Endpoints => 1,
            ResourceType::Secret => 2,
            ResourceType::Listener => 3,
            ResourceType::Route => 4,
        };
        &self.0.types[index]
    }
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: &AtomicU64) -> Option<SystemTime> {
    let millis = millis.load(Ordering::Relaxed);
    (millis != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}
