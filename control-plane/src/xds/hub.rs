//! Where snapshots meet sessions: the current moment of the mesh, and who must be woken when it changes.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weir_xds::ResourceType;

use super::{
    Metrics,
    cache::Cache,
    changes::{self, Touched},
    names::Topic,
    pace::{Paces, Rate},
    view::Moment,
};
use crate::{catalog::Snapshot, certificates::TrustBundle};

/// Streams of one pod. Its proxy keeps one open.
const STREAMS: Rate = Rate {
    burst: 16,
    interval: Duration::from_secs(1),
};

/// The mesh as it is served, and its sessions.
pub struct Hub {
    moment: watch::Sender<Arc<Moment>>,
    pub(super) cache: Cache,
    registry: Mutex<Registry>,
    pub(super) metrics: Metrics,
    /// Of streams, by pod.
    pub(super) paces: Paces,
}

#[derive(Default)]
struct Registry {
    last_id: u64,
    sessions: HashMap<u64, Member>,
    by_topic: HashMap<Topic, HashSet<u64>>,
    by_pod: HashMap<Arc<str>, u64>,
    to_all: HashSet<u64>,
}

struct Member {
    mailbox: Arc<Mailbox>,
    topics: HashSet<Topic>,
}

/// What a session has not yet looked at.
pub(super) struct Mailbox {
    touched: Mutex<Touched>,
    wake: Notify,
    /// A newer stream of the same pod took over.
    pub(super) replaced: CancellationToken,
    status: Mutex<SessionInfo>,
}

/// A session, for people.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    /// Pod UID.
    pub pod: String,
    /// Address of the proxy.
    pub peer: SocketAddr,
    /// `delta` or `sotw`.
    pub protocol: &'static str,
    /// Names held, by type.
    pub subscribed: HashMap<&'static str, usize>,
    /// The last refusal of the proxy, with its type.
    pub last_nack: Option<String>,
}

impl Hub {
    /// Starts with this moment.
    pub fn new(snapshot: Arc<Snapshot>, trust: Arc<TrustBundle>, metrics: Metrics) -> Self {
        metrics
            .generation
            .set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        Self {
            moment: watch::Sender::new(Arc::new(Moment { snapshot, trust })),
            cache: Cache::default(),
            registry: Mutex::default(),
            metrics,
            paces: Paces::new(STREAMS),
        }
    }

    /// Serves a new snapshot: wakes the sessions that subscribed to what changed.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let before = self.now();
        let touched = changes::between(&before.snapshot, &snapshot);
        self.metrics
            .generation
            .set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        let trust = before.trust.clone();
        self.cache.forget_missing(&touched, &snapshot);
        // First the state, then the word: a session that subscribes in between sees the new state anyway.
        self.moment.send_replace(Arc::new(Moment { snapshot, trust }));
        self.wake(&touched);
    }

    /// Serves new roots.
    pub fn publish_trust(&self, trust: Arc<TrustBundle>) {
        let snapshot = self.now().snapshot.clone();
        self.moment.send_replace(Arc::new(Moment { snapshot, trust }));
        let mut touched = Touched::default();
        touched.add(Topic::Trust);
        self.wake(&touched);
    }

    /// Every session, for people.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let registry = self.registry.lock();
        let status = |member: &Member| member.mailbox.status.lock().clone();
        registry.sessions.values().map(status).collect()
    }

    pub(super) fn now(&self) -> Arc<Moment> {
        self.moment.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Moment>> {
        self.moment.subscribe()
    }

    /// Adds a session; an older one of the same pod is told to end. `None`: the mesh allows a controller no further
    /// proxy.
    pub(super) fn join(
        self: &Arc<Self>,
        pod: Arc<str>,
        peer: SocketAddr,
        protocol: &'static str,
    ) -> Option<Membership> {
        let limit = self.now().snapshot.mesh.proxies;
        let mailbox = Arc::new(Mailbox {
            touched: Mutex::default(),
            wake: Notify::new(),
            replaced: CancellationToken::new(),
            status: Mutex::new(SessionInfo {
                pod: pod.to_string(),
                peer,
                protocol,
                subscribed: HashMap::new(),
                last_nack: None,
            }),
        });
        let own = Topic::Pod(pod.clone());
        let mut registry = self.registry.lock();
        let full = limit.is_some_and(|limit| registry.by_pod.len() >= limit);
        if full && !registry.by_pod.contains_key(&pod) {
            return None;
        }
        registry.last_id += 1;
        let id = registry.last_id;
        let member = Member {
            mailbox: mailbox.clone(),
            topics: HashSet::from([own.clone()]),
        };
        registry.sessions.insert(id, member);
        registry.by_topic.entry(own).or_default().insert(id);
        let older = registry.by_pod.insert(pod.clone(), id);
        if let Some(older) = older.and_then(|older| registry.sessions.get(&older)) {
            older.mailbox.replaced.cancel();
            self.metrics.reconnects.inc();
        }
        self.metrics.sessions.inc();
        Some(Membership {
            hub: self.clone(),
            id,
            pod,
            mailbox,
        })
    }

    fn wake(&self, touched: &Touched) {
        let registry = self.registry.lock();
        let mut woken: HashSet<u64> = HashSet::new();
        match touched {
            Touched::All => {
                for (id, member) in &registry.sessions {
                    *member.mailbox.touched.lock() = Touched::All;
                    woken.insert(*id);
                }
            }
            Touched::Topics(topics) => {
                for topic in topics {
                    for id in registry.by_topic.get(topic).into_iter().flatten() {
                        if let Some(member) = registry.sessions.get(id) {
                            member.mailbox.touched.lock().add(topic.clone());
                            woken.insert(*id);
                        }
                    }
                }
                if !topics.is_empty() {
                    for id in &registry.to_all {
                        if let Some(member) = registry.sessions.get(id) {
                            *member.mailbox.touched.lock() = Touched::All;
                            woken.insert(*id);
                        }
                    }
                }
            }
        }
        for id in &woken {
            if let Some(member) = registry.sessions.get(id) {
                member.mailbox.wake.notify_one();
            }
        }
        self.metrics.woken.inc_by(woken.len() as u64);
    }
}

/// A session's place in the hub, given up when dropped.
pub(super) struct Membership {
    hub: Arc<Hub>,
    id: u64,
    pod: Arc<str>,
    pub(super) mailbox: Arc<Mailbox>,
}

impl Membership {
    /// From now on the session is woken for the topics that are `true`, and no more for the others.
    pub(super) fn follow(&self, news: HashMap<Topic, bool>, all: bool) {
        let mut guard = self.hub.registry.lock();
        let registry = &mut *guard;
        let Some(member) = registry.sessions.get_mut(&self.id) else {
            return;
        };
        let own = Topic::Pod(self.pod.clone());
        for (topic, followed) in news.into_iter().filter(|(topic, _)| *topic != own) {
            if followed {
                member.topics.insert(topic.clone());
                registry.by_topic.entry(topic).or_default().insert(self.id);
            } else {
                member.topics.remove(&topic);
                leave(&mut registry.by_topic, &topic, self.id);
            }
        }
        match all {
            true => registry.to_all.insert(self.id),
            false => registry.to_all.remove(&self.id),
        };
    }

    /// Waits until something the session follows has changed, and takes what it was.
    pub(super) async fn touched(&self) -> Touched {
        loop {
            let touched = std::mem::take(&mut *self.mailbox.touched.lock());
            if !touched.is_empty() {
                return touched;
            }
            self.mailbox.wake.notified().await;
        }
    }

    /// Tells people how it is.
    pub(super) fn report(&self, subscribed: [usize; ResourceType::ALL.len()], nack: Option<String>) {
        let mut status = self.mailbox.status.lock();
        let kinds = ResourceType::ALL.map(ResourceType::short);
        status.subscribed = kinds
            .into_iter()
            .zip(subscribed)
            .filter(|(_, count)| *count > 0)
            .collect();
        if nack.is_some() {
            status.last_nack = nack;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut guard = self.hub.registry.lock();
        let registry = &mut *guard;
        if let Some(member) = registry.sessions.remove(&self.id) {
            for topic in &member.topics {
                leave(&mut registry.by_topic, topic, self.id);
            }
        }
        registry.to_all.remove(&self.id);
        if registry.by_pod.get(&self.pod) == Some(&self.id) {
            registry.by_pod.remove(&self.pod);
        }
        self.hub.metrics.sessions.dec();
    }
}

fn leave(by_topic: &mut HashMap<Topic, HashSet<u64>>, topic: &Topic, id: u64) {
    if let Some(ids) = by_topic.get_mut(topic) {
        ids.remove(&id);
        if ids.is_empty() {
            by_topic.remove(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::MeshSettings;

    fn allowing(proxies: Option<usize>) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            mesh: Arc::new(MeshSettings {
                proxies,
                ..MeshSettings::default()
            }),
            ..Snapshot::default()
        })
    }

    #[test]
    fn a_controller_serves_as_many_proxies_as_the_mesh_allows() {
        let root = rcgen::generate_simple_self_signed(vec!["root".to_owned()]).unwrap();
        let trust = Arc::new(TrustBundle::from_pem(&root.cert.pem()).unwrap());
        let hub = Arc::new(Hub::new(allowing(Some(1)), trust, Metrics::default()));
        let join = |pod: &str| hub.join(pod.into(), SocketAddr::from(([10, 0, 0, 1], 1)), "delta");
        let first = join("a").unwrap();
        assert!(join("b").is_none());
        let again = join("a").expect("a proxy that connects anew is not one more");
        drop(first);
        assert!(join("b").is_none());
        drop(again);
        let other = join("b").unwrap();
        hub.publish(allowing(None));
        assert!(join("a").is_some());
        drop(other);
    }
}
