//! The node's loop: manifests and observations in, steps of the controllers carried out; [`create`] makes pods,
//! [`publish`] puts rules, hosts files and observed objects in force.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use notify::Watcher as _;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use weir_init::nftables::{Netlink, Table};
use weir_init::rules::Family;

use super::Event;
use crate::addresses::{self, HostNumber};
use crate::cluster::Cluster;
use crate::controllers::{self, Observed, Owner, Step};
use crate::manifests::{Directories, Key, Manifests};
use crate::network::Network;
use crate::options::Options;
use crate::pod::{self, Context, Orders, Phase, PodStatus};

mod create;
mod publish;

/// How long the manifest directory must be quiet before it is read.
const DEBOUNCE: Duration = Duration::from_millis(30);
/// How long a pod's network outlives its containers.
const LINGER: Duration = Duration::from_secs(5);

/// What callers ask of the node.
pub(super) enum Command {
    Kill {
        key: Key,
        container: String,
        done: oneshot::Sender<Result<()>>,
    },
    Delete {
        key: Key,
        done: oneshot::Sender<Result<()>>,
    },
    Stop {
        done: oneshot::Sender<Result<()>>,
    },
}

/// One pod on the node.
struct Entry {
    owner: Owner,
    number: HostNumber,
    context: Arc<Context>,
    orders: watch::Sender<Orders>,
    task: JoinHandle<()>,
    watcher: JoinHandle<()>,
    was_ready: bool,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
        self.watcher.abort();
    }
}

impl Entry {
    fn status(&self) -> PodStatus {
        self.context.status.borrow().clone()
    }

    /// Whether it was told to end and has.
    fn is_gone(&self) -> bool {
        self.task.is_finished() && self.context.status.borrow().terminating
    }
}

/// The node's state, owned by its task.
pub(super) struct Node {
    options: Options,
    network: Network,
    netlink: Netlink,
    cluster: Cluster,
    directories: Directories,
    manifests: Arc<Manifests>,
    pod_addresses: addresses::Pods,
    service_addresses: addresses::Services,
    pods: BTreeMap<Key, Entry>,
    poke: Arc<Notify>,
    changes: mpsc::UnboundedReceiver<()>,
    _watcher: notify::RecommendedWatcher,
    snapshot: watch::Sender<Vec<PodStatus>>,
    events: broadcast::Sender<Event>,
    tables: BTreeMap<Family, Table>,
    rejected: BTreeMap<Owner, String>,
    /// Pods that are gone, whose network still answers late packets with a reset.
    lingering: Vec<(Instant, Arc<Context>)>,
    /// Told to stop; says so once every pod is gone.
    stopping: Option<oneshot::Sender<Result<()>>>,
}

impl Node {
    pub(super) async fn start(
        options: Options,
        snapshot: watch::Sender<Vec<PodStatus>>,
        events: broadcast::Sender<Event>,
    ) -> Result<Self> {
        let run = &options.run_dir;
        for name in ["pods", "netns"] {
            std::fs::create_dir_all(run.join(name))
                .with_context(|| format!("create {}", run.join(name).display()))?;
        }
        let network = Network::start(run.join("netns")).await?;
        let cluster = Cluster::open(run.join("cluster"))?;
        let (told, changes) = mpsc::unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _node_is_gone = told.send(());
            }
        })
        .context("watch the manifests (inotify: see sysctl fs.inotify.max_user_instances)")?;
        for directory in &options.manifests {
            watcher
                .watch(directory, notify::RecursiveMode::Recursive)
                .with_context(|| format!("watch {}", directory.display()))?;
        }
        let mut node = Self {
            directories: Directories::new(options.manifests.clone()),
            netlink: Netlink::open()?,
            options,
            network,
            cluster,
            manifests: Arc::default(),
            pod_addresses: addresses::Pods::default(),
            service_addresses: addresses::Services::default(),
            pods: BTreeMap::new(),
            poke: Arc::new(Notify::new()),
            changes,
            _watcher: watcher,
            snapshot,
            events,
            tables: BTreeMap::new(),
            rejected: BTreeMap::new(),
            lingering: Vec::new(),
            stopping: None,
        };
        node.read_manifests();
        Ok(node)
    }

    /// Runs until stopped.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let poke = Arc::clone(&self.poke);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            self.reconcile().await;
            if self.pods.is_empty()
                && let Some(done) = self.stopping.take()
            {
                let _nobody_waits = done.send(Ok(()));
                return;
            }
            tokio::select! {
                () = poke.notified() => {}
                _ = tick.tick() => {}
                Some(()) = self.changes.recv() => {
                    while tokio::time::timeout(DEBOUNCE, self.changes.recv()).await.is_ok_and(|more| more.is_some()) {}
                    self.read_manifests();
                }
                command = inbox.recv() => match command {
                    None => return,
                    Some(command) => self.obey(command),
                },
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Stop { done } => {
                self.manifests = Arc::default();
                self.stopping = Some(done);
            }
            Command::Delete { key, done } => {
                let found = self.find(&key).map(drop);
                if found.is_ok() {
                    self.end(&[key]);
                }
                let _nobody_waits = done.send(found);
            }
            Command::Kill { key, container, done } => {
                let found = self.find(&key).map(|entry| {
                    let kill = |orders: &mut Orders| *orders.kill.entry(container).or_default() += 1;
                    entry.orders.send_modify(kill);
                });
                let _nobody_waits = done.send(found);
            }
        }
    }

    fn find(&self, key: &Key) -> Result<&Entry> {
        self.pods
            .get(key)
            .ok_or_else(|| anyhow!("pod {} is gone", label(key)))
    }

    fn tell(&self, event: Event) {
        let _nobody_listens = self.events.send(event);
    }

    fn read_manifests(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let (manifests, errors) = self.directories.read();
        self.manifests = Arc::new(manifests);
        for error in errors {
            tracing::error!("{error}");
            self.tell(Event::Manifest(error));
        }
    }

    async fn reconcile(&mut self) {
        self.bury();
        let observed: Vec<Observed> = self.pods.iter().map(|(key, entry)| observe(key, entry)).collect();
        let steps = controllers::reconcile(&self.manifests, &observed, &mut fresh_name);
        let (mut starts, mut ending) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Create { owner, pod } => starts.extend(self.create(owner, *pod).await),
                Step::End { namespace, name } => ending.push((namespace, name)),
            }
        }
        // All new pods are made known at once: that some of them are ready does not say that all are.
        self.end(&ending);
        for start in starts {
            let _pod_ended_already = start.send(());
        }
        if !ending.is_empty() {
            self.poke.notify_one();
        }
    }

    /// Removes pods that were told to end, or need not be remembered, and have ended.
    fn bury(&mut self) {
        let gone: Vec<Key> = self
            .pods
            .iter()
            .filter(|(_, entry)| entry.is_gone())
            .map(|(key, _)| key.clone())
            .collect();
        self.lingering.retain(|(since, _)| since.elapsed() < LINGER);
        for key in gone {
            if let Some(entry) = self.pods.remove(&key) {
                self.lingering.push((Instant::now(), Arc::clone(&entry.context)));
                self.pod_addresses.release(entry.number, Instant::now());
                let root = entry.context.dir.join("root");
                let _empty_mount_points = std::fs::remove_dir_all(root);
                self.tell(Event::Gone(label(&key)));
            }
        }
    }

    /// Marks pods as ending, lets everybody know, and only then tells their containers.
    fn end(&mut self, keys: &[Key]) {
        for entry in keys.iter().filter_map(|key| self.pods.get(key)) {
            entry
                .context
                .status
                .send_if_modified(|status| !std::mem::replace(&mut status.terminating, true));
        }
        self.publish();
        for entry in keys.iter().filter_map(|key| self.pods.get(key)) {
            let grace = pod::grace(&entry.context.pod);
            entry.orders.send_modify(|orders| orders.end = Some(grace));
        }
    }

    fn fail(&self, what: &str, error: &dyn std::error::Error) {
        let message = format!("cannot {what}: {error}");
        tracing::error!("{message}");
        self.tell(Event::Failure(message));
    }
}

fn observe(key: &Key, entry: &Entry) -> Observed {
    let status = entry.context.status.borrow();
    Observed {
        owner: entry.owner.clone(),
        name: key.1.clone(),
        ready: status.ready(),
        terminating: status.terminating,
        ended: status.ended(),
        failed: status.phase == Phase::Failed,
    }
}

/// Names by which snapshots and events call a pod.
fn label(key: &Key) -> String {
    format!("{}/{}", key.0, key.1)
}

fn fresh_name() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]))
        .collect()
}
