//! A listener with everything that it names, resolved into one immutable snapshot.
//!
//! A new version of a listener or of its routes is put in force only when every cluster that it names is ready, or
//! after `PATIENCE`: until then the last good one serves, so no request meets a cluster that is still on its way.
//! What the new version forbids is forbidden at once all the same: it is asked too while it waits.

mod resolved;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures::future::select_all;
use tokio::{sync::watch, task::AbortHandle, time::sleep_until};

use crate::{
    model::Terminal as Filter,
    model::{FilterChain, Http, Listener, RouteSource, RouteTable},
    tls::Tls,
    upstream::{Readiness, Upstreams},
    xds::{State, Store, Watched},
};

use resolved::buckets;
pub use resolved::{Chain, HttpChain, Resolved, Targets, Terminal};

/// How long a new version waits for the clusters that it names.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is in force for a listener.
#[derive(Clone)]
pub enum Standing {
    /// Nothing yet.
    Pending,
    /// The control plane says that there is no such listener.
    Absent,
    /// This.
    Ready(Arc<Resolved>),
}

/// A listener under assembly: what is in force, and the task that keeps it up to date while this lives.
pub struct Assembly {
    now: Arc<ArcSwapOption<Resolved>>,
    standing: watch::Receiver<Standing>,
    task: AbortHandle,
}

impl Drop for Assembly {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Assembly {
    /// Begins to follow the listener of this name.
    pub fn new(name: &str, store: &Store, upstreams: &Upstreams, tls: &Arc<Tls>) -> Arc<Self> {
        let (sender, standing) = watch::channel(Standing::Pending);
        let now = Arc::new(ArcSwapOption::empty());
        let assembler = Assembler {
            listener: store.watch(name),
            store: store.clone(),
            upstreams: upstreams.clone(),
            tls: tls.clone(),
            tables: HashMap::new(),
            now: now.clone(),
            standing: sender,
        };
        let task = tokio::spawn(assembler.run()).abort_handle();
        Arc::new(Self { now, standing, task })
    }

    /// What is in force now.
    pub fn now(&self) -> arc_swap::Guard<Option<Arc<Resolved>>> {
        self.now.load()
    }

    /// What is known now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Waits until it is known whether there is such a listener. Bound it with a timeout.
    pub async fn answered(&self) -> Standing {
        let mut standing = self.standing.clone();
        let answered = standing
            .wait_for(|standing| !matches!(standing, Standing::Pending))
            .await;
        answered.map_or(Standing::Pending, |standing| standing.clone())
    }

    /// Follows changes of what is in force.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
}

struct Assembler {
    listener: Watched<Listener>,
    store: Store,
    upstreams: Upstreams,
    tls: Arc<Tls>,
    tables: HashMap<String, Watched<RouteTable>>,
    now: Arc<ArcSwapOption<Resolved>>,
    standing: watch::Sender<Standing>,
}

impl Assembler {
    async fn run(mut self) {
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            let candidate = match self.listener.current() {
                State::Pending => None,
                State::Absent => {
                    self.now.store(None);
                    self.standing.send_replace(Standing::Absent);
                    None
                }
                State::Ready(listener) => Some(Arc::new(self.resolve(&listener))),
            };
            let Some(candidate) = candidate else {
                self.listener.changed().await;
                deadline = Instant::now() + PATIENCE;
                continue;
            };
            if self.settled(&candidate, deadline).await {
                self.put(candidate);
                self.changed().await;
                deadline = Instant::now() + PATIENCE;
            }
        }
    }

    /// Puts a version in force.
    fn put(&self, resolved: Arc<Resolved>) {
        self.now.store(Some(resolved.clone()));
        self.standing.send_replace(Standing::Ready(resolved));
    }

    /// Waits until the candidate can be put in force. `false` when something changed meanwhile.
    async fn settled(&mut self, candidate: &Arc<Resolved>, deadline: Instant) -> bool {
        let mut narrowed = false;
        loop {
            let unready: Vec<_> = candidate
                .upstreams()
                .map(|upstream| upstream.readiness())
                .filter(|readiness| *readiness.borrow() == Readiness::Pending)
                .collect();
            let tables_known = candidate.all().all(|chain| match &chain.terminal {
                Terminal::Http(http) => http.table.is_some(),
                Terminal::Tcp(..) => true,
            });
            if unready.is_empty() && tables_known {
                return true;
            }
            if !std::mem::replace(&mut narrowed, true)
                && let Some(last) = self.now.load_full()
            {
                self.put(Arc::new(last.narrowed(candidate.clone())));
            }
            let waits = unready.into_iter().map(|mut readiness| {
                Box::pin(async move {
                    let _ = readiness.wait_for(|now| *now != Readiness::Pending).await;
                })
            });
            let waits: Vec<_> = waits.collect();
            let any = async {
                if waits.is_empty() {
                    std::future::pending::<()>().await;
                }
                select_all(waits).await;
            };
            tokio::select! {
                () = self.changed() => return false,
                () = any => {}
                () = sleep_until(deadline.into()) => {
                    let listener = &candidate.listener.name;
                    tracing::warn!(listener, "some of its clusters or routes did not arrive in time; going on without them");
                    return true;
                }
            }
        }
    }

    /// Waits until the listener or one of its route tables changes.
    async fn changed(&mut self) {
        let tables: Vec<_> = self
            .tables
            .values_mut()
            .map(|table| Box::pin(table.changed()))
            .collect();
        let any_table = async {
            if tables.is_empty() {
                std::future::pending::<()>().await;
            }
            select_all(tables).await;
        };
        tokio::select! {
            () = self.listener.changed() => {}
            () = any_table => {}
        }
    }

    fn resolve(&mut self, listener: &Arc<Listener>) -> Resolved {
        let mut tables = HashMap::new();
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            if let Filter::Http(http) = &chain.terminal
                && let RouteSource::Rds(name) = &http.routes
            {
                let watched = self.tables.remove(name).or_else(|| tables.remove(name));
                let watched = watched.unwrap_or_else(|| self.store.watch(name));
                tables.insert(name.clone(), watched);
            }
        }
        self.tables = tables;
        let last = self.now.load_full();
        let chain = |chain: &Arc<FilterChain>| self.chain(chain, last.as_deref());
        Resolved {
            listener: listener.clone(),
            chains: listener.chains.iter().map(chain).collect(),
            default_chain: listener.default_chain.as_ref().map(chain),
            next: None,
        }
    }

    /// A chain; the last one again when nothing in it changed.
    fn chain(&self, model: &Arc<FilterChain>, last: Option<&Resolved>) -> Arc<Chain> {
        let table = match &model.terminal {
            Filter::Http(http) => self.table(http),
            Filter::Tcp(_) => None,
        };
        let same = |chain: &&Arc<Chain>| {
            chain.model == *model
                && match (&chain.terminal, &table) {
                    (Terminal::Http(http), Some(table)) => {
                        http.table.as_ref().is_some_and(|last| Arc::ptr_eq(last, table))
                    }
                    (Terminal::Http(http), None) => http.table.is_none(),
                    (Terminal::Tcp(..), _) => true,
                }
        };
        if let Some(chain) = last.and_then(|last| last.all().find(same)) {
            return chain.clone();
        }
        let terminal = match &model.terminal {
            Filter::Http(http) => Terminal::Http(HttpChain::new(http.clone(), table, &self.upstreams)),
            Filter::Tcp(tcp) => Terminal::Tcp(tcp.clone(), Targets::new(&tcp.clusters, &self.upstreams)),
        };
        // New routes do not fill the buckets.
        let kept = last.and_then(|last| last.all().find(|chain| chain.model == *model));
        Arc::new(Chain {
            buckets: kept.map_or_else(|| buckets(model, Instant::now()), |chain| chain.buckets.clone()),
            model: model.clone(),
            tls: model.tls.as_ref().map(|tls| self.tls.server(tls)),
            terminal,
        })
    }

    /// The route table of a connection manager. One that the control plane says is not there is empty.
    fn table(&self, http: &Http) -> Option<Arc<RouteTable>> {
        match &http.routes {
            RouteSource::Inline(table) => Some(table.clone()),
            RouteSource::Rds(name) => match self.tables.get(name)?.current() {
                State::Pending => None,
                State::Absent => Some(Arc::default()),
                State::Ready(table) => Some(table),
            },
        }
    }
}
