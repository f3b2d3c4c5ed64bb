//! One client connection: who is at its other end, and what serves its requests.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::flow::Spare;
use crate::{
    admit::{admit, may_admit},
    assemble::{Assembly, Chain, HttpChain, Resolved, Terminal},
    chain::{self, Facts},
    context::Context,
    model::Direction,
    reason::Reason,
    tls::PeerIdentity,
};

/// One client connection that speaks HTTP.
pub struct Session {
    /// What every connection has at hand.
    pub context: Arc<Context>,
    /// The listener that it came to.
    pub assembly: Arc<Assembly>,
    /// What chose its chain.
    pub facts: Facts,
    /// Who the client is, by its certificate.
    pub peer: Option<Arc<PeerIdentity>>,
    /// Which way its traffic goes.
    pub direction: Direction,
    /// Whether HTTP/2 may carry HTTP/1 requests over it.
    pub(super) carries: bool,
    /// Idle timers of requests that are done.
    pub(super) spare: Spare,
    current: ArcSwap<Current>,
}

/// The chain of the connection under one version of its listener.
struct Current {
    resolved: Option<Arc<Resolved>>,
    chain: Result<Serving, Reason>,
}

/// What serves a request.
#[derive(Clone)]
pub struct Serving {
    /// The chain in force.
    pub chain: Arc<Chain>,
    /// The chain that waits to take over: what it forbids is forbidden.
    pub next: Option<Arc<Chain>>,
}

impl Session {
    /// A session on a connection that `chain` was chosen for, or whose client is refused for now.
    pub fn new(
        context: Arc<Context>,
        assembly: Arc<Assembly>,
        facts: Facts,
        peer: Option<Arc<PeerIdentity>>,
        resolved: Arc<Resolved>,
        chain: Result<Arc<Chain>, Reason>,
    ) -> Self {
        Self {
            context,
            assembly,
            facts,
            peer,
            direction: resolved.listener.direction,
            carries: false,
            spare: Spare::default(),
            current: ArcSwap::from_pointee(Current {
                // Another version may wait behind it: looked at when the first request comes.
                resolved: resolved.is_alone().then_some(resolved),
                chain: chain.map(|chain| Serving { chain, next: None }),
            }),
        }
    }

    /// The same on a connection over which HTTP/2 may carry HTTP/1 requests, or not.
    pub fn carrying(self, carries: bool) -> Self {
        Self { carries, ..self }
    }

    /// Whether the client is another pod's sidecar, by its certificate.
    pub(super) fn is_between_sidecars(&self) -> bool {
        self.direction != Direction::Outbound && self.peer.is_some()
    }

    /// The chain in force for the next request. A new version of the listener may have another for this connection,
    /// or none, or may not allow its client any more.
    ///
    /// # Errors
    /// With the reason when requests are no longer served.
    pub fn chain(&self) -> Result<Serving, Reason> {
        let now = self.assembly.now();
        let current = self.current.load();
        let same = match (&*now, &current.resolved) {
            (Some(now), Some(current)) => Arc::ptr_eq(now, current),
            (None, None) => true,
            _ => false,
        };
        if same {
            return current.chain.clone();
        }
        let chain = match &*now {
            None => Err(Reason::NoFilterChain),
            Some(resolved) => self.serving(resolved),
        };
        self.current.store(Arc::new(Current {
            resolved: now.clone(),
            chain: chain.clone(),
        }));
        chain
    }

    fn serving(&self, resolved: &Resolved) -> Result<Serving, Reason> {
        let chain = resolved.chain(chain::select(&resolved.listener, &self.facts));
        let chain = chain.ok_or(Reason::NoFilterChain)?;
        let peer = self.peer.as_deref();
        admit(&chain.model, &self.facts, peer).map_err(|denied| denied.reason)?;
        let next = resolved.next_chain(&self.facts, peer);
        Ok(Serving {
            chain: chain.clone(),
            next: next.map_err(|denied| denied.reason)?.cloned(),
        })
    }

    /// Whether the client may be let in with some request.
    fn may_be_served(&self) -> bool {
        self.chain().is_ok_and(|serving| {
            let mut chains = std::iter::once(&serving.chain).chain(&serving.next);
            chains.all(|chain| self.may_be_served_by(chain))
        })
    }

    fn may_be_served_by(&self, chain: &Chain) -> bool {
        let Terminal::Http(HttpChain { http, table, .. }) = &chain.terminal else {
            return false;
        };
        let Some(table) = table else { return true };
        let mut routes = table.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes.any(|route| {
            let rules = route.rbac.as_ref().or(http.rbac.as_ref());
            may_admit(rules, &self.facts, self.peer.as_deref())
        })
    }

    /// Returns when a changed policy lets in nothing of this client any more. One that it never let in stays and is
    /// told so, request by request: to close its connection would only have it come back.
    pub(super) async fn withdrawn(&self) {
        let mut standing = self.assembly.watch();
        let mut served = self.may_be_served();
        while standing.changed().await.is_ok() {
            let serves = self.may_be_served();
            if served && !serves {
                let connections = &self.context.telemetry.connections;
                connections.denied(self.direction, Reason::PolicyRevoked);
                return;
            }
            served = serves;
        }
        std::future::pending().await
    }
}
