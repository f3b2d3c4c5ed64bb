//! Watches one kind for ever: lists it, follows it, lists it anew when the API server has forgotten where we were.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{
    Client,
    runtime::watcher::{self, Event, watcher},
};
use rand::Rng as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info};

use super::{
    contact::{self, Contact},
    item::{Item, Read},
    kinds::{self, Kind},
};
use crate::spec::ObjectName;

/// How long a list may stand still.
const STALLED: Duration = Duration::from_secs(60);
/// How often it is looked for a kind that the cluster has no definition of.
const ABSENT: Duration = Duration::from_secs(3);
/// How often in a row a kind that was there must be absent to be believed: an API server that starts may not know its
/// definitions yet.
const GONE_FOR_GOOD: u32 = 5;
const SHORTEST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Whoever has not failed for so long begins anew with the shortest.
const FORGIVEN: Duration = Duration::from_secs(60);

/// What happened to a kind.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) kind: &'static Kind,
    pub(super) what: What,
}

/// What happened.
#[derive(Debug)]
pub(super) enum What {
    /// An object is there, or is another now.
    Put(Box<Read>),
    /// An object is gone.
    Gone(ObjectName),
    /// These are all there are; each was [`What::Put`] since the list began.
    Listed(HashSet<ObjectName>),
    /// The cluster has no such kind.
    Absent,
}

/// The watch of one kind.
pub(super) struct Watch {
    pub(super) contact: Arc<Contact>,
    /// A client [`through`](contact::through) the contact.
    client: Client,
    namespace: String,
    changes: mpsc::Sender<Change>,
    backoff: Backoff,
    /// It was listed once.
    known: bool,
    /// How often in a row it was absent.
    absences: u32,
}

/// Why a watch begins from nothing, or ends.
enum Over {
    Anew,
    /// Nobody listens.
    Closed,
}

impl Watch {
    pub(super) fn new(
        client: &Client,
        contact: Arc<Contact>,
        namespace: &str,
        changes: mpsc::Sender<Change>,
    ) -> Self {
        Self {
            client: contact::through(client, &contact),
            contact,
            namespace: namespace.to_owned(),
            changes,
            backoff: Backoff::default(),
            known: false,
            absences: 0,
        }
    }

    /// Watches until nobody listens.
    pub(super) async fn run(mut self) {
        while let Over::Anew = self.follow().await {}
    }

    async fn follow(&mut self) -> Over {
        let kind = self.contact.kind;
        let api = kind.api(self.client.clone(), Some(&self.namespace));
        let mut events = pin!(watcher(api, kind.watch()));
        // `Some` while a list is under way.
        let mut listed: Option<HashSet<ObjectName>> = None;
        loop {
            let next = match &listed {
                Some(_) => timeout(STALLED, events.next()).await,
                None => Ok(events.next().await),
            };
            let event = match next {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => {
                    if self.is_absent(&error).await {
                        return self.wait_for_definition().await;
                    }
                    self.contact.lost(&Chain(&error));
                    self.contact.outage.pause(self.backoff.next(Instant::now())).await;
                    continue;
                }
                Ok(None) => return Over::Anew,
                Err(_) => {
                    self.contact
                        .lost(&format_args!("the list stood still for {} s", STALLED.as_secs()));
                    self.contact.outage.pause(self.backoff.next(Instant::now())).await;
                    return Over::Anew;
                }
            };
            let what = match event {
                Event::Init => {
                    listed = Some(HashSet::new());
                    continue;
                }
                Event::InitApply(item) => {
                    listed.get_or_insert_default().insert(item.name());
                    self.put(&item)
                }
                Event::InitDone => {
                    (self.known, self.absences) = (true, 0);
                    What::Listed(listed.take().unwrap_or_default())
                }
                Event::Apply(item) => self.put(&item),
                Event::Delete(item) => What::Gone(item.name()),
            };
            if self.tell(what).await.is_err() {
                return Over::Closed;
            }
        }
    }

    fn put(&self, item: &Item) -> What {
        What::Put(Box::new(item.read(self.contact.kind, false)))
    }

    async fn tell(&self, what: What) -> Result<(), mpsc::error::SendError<Change>> {
        let kind = self.contact.kind;
        self.changes.send(Change { kind, what }).await
    }

    /// Whether an error means that the cluster has no such kind.
    async fn is_absent(&self, error: &watcher::Error) -> bool {
        let kind = self.contact.kind;
        let not_found = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
            _ => false,
        };
        not_found && !kind.built_in && matches!(kinds::is_absent(&self.client, kind).await, Ok(true))
    }

    async fn wait_for_definition(&mut self) -> Over {
        let kind = self.contact.kind;
        self.absences = self.absences.saturating_add(1);
        if self.absences == if self.known { GONE_FOR_GOOD } else { 1 } {
            self.known = false;
            info!(
                kind = kind.name,
                "the cluster has no definition of {} in {}; waiting for it; install the mesh's CRDs to use it",
                kind.plural,
                kind.api_version
            );
            if self.tell(What::Absent).await.is_err() {
                return Over::Closed;
            }
        }
        tokio::select! {
            () = self.changes.closed() => Over::Closed,
            () = sleep(jittered(ABSENT)) => Over::Anew,
        }
    }
}

/// Growing pauses after failures.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    last: Option<Instant>,
}

impl Backoff {
    fn next(&mut self, now: Instant) -> Duration {
        if self.last.is_none_or(|last| now.duration_since(last) > FORGIVEN) {
            self.failures = 0;
        }
        self.last = Some(now);
        let pause = SHORTEST_BACKOFF.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        debug!(failures = self.failures, "pausing before the next attempt");
        jittered(pause.min(LONGEST_BACKOFF))
    }
}

/// Between half of it and one and a half, so that the watches of many replicas do not come at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}

/// An error with what caused it.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}
