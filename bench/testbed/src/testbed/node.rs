//! The node's loop: manifests and observations in, pods, rules, hosts files and observed objects out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodIP, PodStatus as ApiStatus};
use notify::Watcher as _;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use weir_init::nftables::{Netlink, Table};
use weir_init::rules::Family;

use super::{Entries, Event, label, overwrite};
use crate::addresses::{self, GATEWAY, HostNumber};
use crate::cluster::{self, Cluster};
use crate::controllers::{self, Observed, Owner, Step};
use crate::manifests::{Directories, Key, Manifests};
use crate::network::Network;
use crate::options::Options;
use crate::pod::{self, Context, Orders, Phase, PodStatus};
use crate::services::{self, Endpoint, Resolved};
use crate::volumes::Volumes;

/// How long the manifest directory must be quiet before it is read.
const DEBOUNCE: Duration = Duration::from_millis(30);
/// How long a pod's network outlives its containers.
const LINGER: Duration = Duration::from_secs(5);
const NODE_NAME: &str = "weir-node";

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
pub(super) struct Entry {
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
    pods: Entries,
    poke: Arc<Notify>,
    changes: mpsc::UnboundedReceiver<()>,
    _watcher: notify::RecommendedWatcher,
    snapshot: watch::Sender<Vec<PodStatus>>,
    events: broadcast::Sender<Event>,
    tables: BTreeMap<bool, Table>,
    rejected: BTreeMap<Owner, String>,
    /// Pods that are gone, whose network still answers late packets with a reset.
    lingering: Vec<(Instant, Arc<Context>)>,
    stopping: bool,
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
            stopping: false,
        };
        node.read_manifests();
        Ok(node)
    }

    /// Runs until stopped.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let poke = Arc::clone(&self.poke);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut stopped: Option<oneshot::Sender<Result<()>>> = None;
        loop {
            self.reconcile().await;
            if self.stopping && self.pods.is_empty() {
                if let Some(done) = stopped.take() {
                    let _nobody_waits = done.send(Ok(()));
                }
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
                    Some(Command::Stop { done }) => {
                        self.stopping = true;
                        self.manifests = Arc::default();
                        stopped = Some(done);
                    }
                    Some(Command::Delete { key, done }) => {
                        let found = self.pods.contains_key(&key).then_some(()).ok_or_else(|| anyhow!("pod {} is gone", label(&key)));
                        if found.is_ok() {
                            self.end(&[key]);
                        }
                        let _nobody_waits = done.send(found);
                    }
                    Some(Command::Kill { key, container, done }) => {
                        let found = self.pods.get(&key).ok_or_else(|| anyhow!("pod {} is gone", label(&key)));
                        let _nobody_waits = done.send(found.map(|entry| {
                            entry.orders.send_modify(|orders| *orders.kill.entry(container).or_default() += 1);
                        }));
                    }
                },
            }
        }
    }

    fn tell(&self, event: Event) {
        let _nobody_listens = self.events.send(event);
    }

    fn read_manifests(&mut self) {
        if self.stopping {
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
        let mut ending = Vec::new();
        for step in steps {
            match step {
                Step::Create { owner, pod } => self.create(owner, *pod).await,
                Step::End { namespace, name } => ending.push((namespace, name)),
            }
        }
        self.end(&ending);
        if !ending.is_empty() {
            self.poke.notify_one();
        }
    }

    /// Removes pods that were told to end, or need not be remembered, and have ended.
    fn bury(&mut self) {
        let gone: Vec<Key> = self
            .pods
            .iter()
            .filter(|(_, entry)| entry.task.is_finished() && entry.context.status.borrow().terminating)
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

    async fn create(&mut self, owner: Owner, pod: Pod) {
        match self.try_create(&owner, pod).await {
            Ok(key) => {
                self.rejected.remove(&owner);
                self.tell(Event::Created(label(&key)));
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.rejected.insert(owner.clone(), reason.clone()).as_ref() != Some(&reason) {
                    tracing::error!(owner = label(&owner.key), reason, "pod not created");
                    self.tell(Event::Rejected {
                        owner: label(&owner.key),
                        reason,
                    });
                }
            }
        }
    }

    async fn try_create(&mut self, owner: &Owner, mut pod: Pod) -> Result<Key> {
        let namespace_name = owner.key.0.clone();
        let namespace = self
            .manifests
            .namespaces
            .get(&namespace_name)
            .cloned()
            .unwrap_or_else(|| {
                let mut namespace = Namespace::default();
                namespace.metadata.name = Some(namespace_name.clone());
                namespace
            });
        pod.metadata.uid = Some(fresh_uid());
        let mut pod = (self.options.mutate)(&namespace, pod).context("the injector refused the pod")?;
        let key = (namespace_name, pod.metadata.name.clone().unwrap_or_default());
        let uid = pod.metadata.uid.get_or_insert_with(fresh_uid).clone();
        let number = self.pod_addresses.allocate(Instant::now())?;
        let network = match self.network.add_pod(&uid, number).await {
            Ok(network) => network,
            Err(error) => {
                self.pod_addresses.release(number, Instant::now());
                return Err(error);
            }
        };
        pod.spec.get_or_insert_default().node_name = Some(NODE_NAME.into());
        pod.status = Some(ApiStatus {
            host_ip: Some(GATEWAY.0.to_string()),
            pod_ip: network.ips.first().map(ToString::to_string),
            pod_ips: Some(
                network
                    .ips
                    .iter()
                    .map(|ip| PodIP { ip: ip.to_string() })
                    .collect(),
            ),
            ..ApiStatus::default()
        });
        let dir = self.options.run_dir.join("pods").join(&uid);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let volumes = Volumes::make(&dir.join("volumes"), &pod, &self.manifests, &self.options.mint)?;
        std::fs::write(dir.join("resolv.conf"), "options timeout:1 attempts:1\n")?;
        let status = PodStatus {
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid,
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ips: network.ips.clone(),
            phase: Phase::Pending,
            initialized: false,
            terminating: false,
            message: None,
            containers: BTreeMap::new(),
        };
        let context = Arc::new(Context {
            options: self.options.clone(),
            pod,
            network,
            objects: Arc::clone(&self.manifests),
            hosts: dir.join("hosts"),
            dir,
            volumes,
            status: watch::Sender::new(status),
        });
        self.adopt(key.clone(), owner.clone(), number, context);
        Ok(key)
    }

    /// Takes a pod in and starts its task, once its hosts file is in place.
    fn adopt(&mut self, key: Key, owner: Owner, number: HostNumber, context: Arc<Context>) {
        let (orders, received) = watch::channel(Orders::default());
        let (go, wait) = oneshot::channel::<()>();
        let (task_context, poke) = (Arc::clone(&context), Arc::clone(&self.poke));
        let task = tokio::spawn(async move {
            if wait.await.is_ok() {
                pod::run(task_context, received).await;
            }
            poke.notify_one();
        });
        let (mut seen, poke) = (context.status.subscribe(), Arc::clone(&self.poke));
        let watcher = tokio::spawn(async move {
            while seen.changed().await.is_ok() {
                poke.notify_one();
            }
        });
        self.pods.insert(
            key,
            Entry {
                owner,
                number,
                context,
                orders,
                task,
                watcher,
                was_ready: false,
            },
        );
        self.publish();
        let _pod_ended_already = go.send(());
    }

    /// Puts what is known in force: packet rules, hosts files, observed objects, the callers' snapshot.
    fn publish(&mut self) {
        let services = self.resolve_services();
        let families: &[(bool, Family)] = if self.network.ipv6() {
            &[(true, Family::V4), (false, Family::V6)]
        } else {
            &[(true, Family::V4)]
        };
        for (v4, family) in families {
            let table = services::proxy_table(*family, &services);
            if self.tables.get(v4) != Some(&table) {
                match self.netlink.replace(&table) {
                    Ok(()) => drop(self.tables.insert(*v4, table)),
                    Err(error) => self.fail("put Service rules in force", &error),
                }
            }
        }
        for entry in self.pods.values() {
            if let Err(error) = write_hosts(&entry.context, &services) {
                self.fail("write a hosts file", &error);
            }
        }
        let gateway = IpAddr::from(GATEWAY.0);
        let pods: Vec<Pod> = self
            .pods
            .values()
            .filter(|entry| !(entry.task.is_finished() && entry.context.status.borrow().terminating))
            .map(|entry| cluster::observed(&entry.context.pod, &entry.context.status.borrow(), gateway))
            .collect();
        if let Err(error) = self.cluster.publish(&pods, &services) {
            self.fail("write observed objects", error.as_ref());
        }
        let mut told = Vec::new();
        for (key, entry) in &mut self.pods {
            let ready = entry.context.status.borrow().ready();
            if std::mem::replace(&mut entry.was_ready, ready) != ready {
                told.push(if ready {
                    Event::Ready(label(key))
                } else {
                    Event::NotReady(label(key))
                });
            }
        }
        for event in told {
            self.tell(event);
        }
        let snapshot: Vec<PodStatus> = self.pods.values().map(Entry::status).collect();
        self.snapshot.send_if_modified(|old| {
            let changed = *old != snapshot;
            *old = snapshot;
            changed
        });
    }

    fn fail(&self, what: &str, error: &dyn std::error::Error) {
        let message = format!("cannot {what}: {error}");
        tracing::error!("{message}");
        self.tell(Event::Failure(message));
    }

    fn resolve_services(&mut self) -> BTreeMap<Key, Resolved> {
        let mut all = BTreeMap::new();
        for (key, service) in &self.manifests.services {
            let spec = service.spec.as_ref();
            if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
                continue;
            }
            let mut service = service.clone();
            let mut cluster_ips = Vec::new();
            if !services::is_headless(&service) {
                let asked = spec
                    .and_then(|spec| spec.cluster_ip.as_deref())
                    .and_then(|ip| ip.parse().ok());
                match self.service_addresses.assign(&key.0, &key.1, asked) {
                    Ok(pair) => cluster_ips = services::cluster_ips(pair, self.network.ipv6()),
                    Err(error) => {
                        self.fail("give a Service its address", &error);
                        continue;
                    }
                }
                let spec = service.spec.get_or_insert_default();
                spec.cluster_ip = cluster_ips.first().map(ToString::to_string);
                spec.cluster_ips = Some(cluster_ips.iter().map(ToString::to_string).collect());
            }
            let endpoints = self
                .pods
                .values()
                .filter(|entry| services::selects(&service, &entry.context.pod))
                .map(|entry| (entry, entry.status()))
                .filter(|(_, status)| !status.ended())
                .map(|(entry, status)| Endpoint {
                    pod: entry.context.pod.clone(),
                    ips: status.ips.clone(),
                    ready: status.ready(),
                    serving: status.serving(),
                    terminating: status.terminating,
                })
                .collect();
            all.insert(
                key.clone(),
                Resolved {
                    service,
                    cluster_ips,
                    endpoints,
                },
            );
        }
        all
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

fn write_hosts(context: &Context, services: &BTreeMap<Key, Resolved>) -> std::io::Result<()> {
    let meta = &context.pod.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let own: Vec<(IpAddr, String)> = context.network.ips.iter().map(|ip| (*ip, name.clone())).collect();
    let text = services::hosts_file(meta.namespace.as_deref().unwrap_or_default(), &own, services);
    let path: &Path = &context.hosts;
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    overwrite(path, &text)
}

fn fresh_name() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]))
        .collect()
}

/// A random UUID (RFC 9562 version 4).
fn fresh_uid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76 | 0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
