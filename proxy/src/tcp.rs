//! Opaque connections: one endpoint for the whole connection, and bytes copied both ways.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    admit::admit,
    assemble::{Assembly, Chain, Standing, Targets, Terminal},
    chain::{self, Facts},
    context::Context,
    model::Tcp,
    net::{self, Copied, Io},
    reason::Reason,
    telemetry::Metered,
    tls::PeerIdentity,
    upstream::{Endpoint, Passage, Upstream},
};

/// Endpoints tried for one connection.
const TRIES: usize = 5;
/// Another endpoint is waited for this long, when all that are known cannot be reached.
const PATIENCE: Duration = Duration::from_secs(1);

/// An opaque connection about to be forwarded.
pub struct Opaque<'a> {
    /// What every connection has at hand.
    pub context: &'a Context,
    /// The listener that it came to.
    pub assembly: &'a Assembly,
    /// What chose its chain.
    pub facts: &'a Facts,
    /// Who the client is, by its certificate.
    pub peer: Option<Arc<PeerIdentity>>,
}

impl Opaque<'_> {
    /// Connects to an endpoint and copies until both sides are done, or until a changed policy forbids it.
    pub async fn forward(&self, mut client: Metered<Io>, tcp: &Tcp, targets: &Targets) -> (Reason, Copied) {
        let mut copied = Copied::default();
        let mut passage = match self.connect(targets).await {
            Ok(passage) => passage,
            Err(reason) => {
                client.stream().reset();
                return (reason, copied);
            }
        };
        let endpoint = &mut passage.io;
        let reason = tokio::select! {
            result = net::copy(&mut client, endpoint, tcp.idle_timeout, &mut copied) => match result {
                Ok(()) => Reason::Closed,
                Err(error) => {
                    tracing::debug!(%error, client = %self.facts.source, "a connection broke");
                    client.stream().reset();
                    endpoint.reset();
                    Reason::UpstreamReset
                }
            },
            () = self.revoked() => {
                client.stream().reset();
                endpoint.reset();
                Reason::PolicyRevoked
            }
        };
        let reason = if copied.idle { Reason::IdleTimeout } else { reason };
        (reason, copied)
    }

    /// Chooses a cluster and its endpoint. A connection in the middle of a change that moves a service elsewhere waits
    /// for the rest of it.
    async fn choose(&self, targets: &Targets) -> Result<(Arc<Upstream>, Arc<Endpoint>), Reason> {
        let mut standing = self.assembly.watch();
        let mut latest: Option<Arc<Chain>> = None;
        loop {
            let targets = match latest.as_ref().map(|chain| &chain.terminal) {
                Some(Terminal::Tcp(_, targets)) => targets,
                Some(Terminal::Http(_)) => return Err(Reason::NoFilterChain),
                None => targets,
            };
            let upstream = targets.next().ok_or(Reason::NoCluster)?;
            let lack = match upstream.pick(self.facts.destination) {
                Ok(endpoint) => return Ok((upstream.clone(), endpoint)),
                Err(lack) => lack,
            };
            let ended = match lack.until {
                Some(until) => tokio::select! {
                    changed = standing.changed() => changed.is_ok(),
                    refilled = upstream.refilled(self.facts.destination, until) => refilled,
                },
                None => false,
            };
            if !ended {
                return Err(lack.reason);
            }
            let resolved = self.assembly.now().clone().ok_or(Reason::NoFilterChain)?;
            let chain = resolved.chain(chain::select(&resolved.listener, self.facts));
            let chain = chain.ok_or(Reason::NoFilterChain)?;
            admit(&chain.model, self.facts, self.peer.as_deref()).map_err(|denied| denied.reason)?;
            latest = Some(chain.clone());
        }
    }

    /// Connects to one endpoint after another: nothing was sent to one that cannot be reached.
    async fn connect(&self, targets: &Targets) -> Result<Passage, Reason> {
        let (upstream, mut endpoint) = self.choose(targets).await?;
        let mut tried = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match self.connect_to(&upstream, &endpoint).await {
                Ok(connected) => return Ok(connected),
                Err(reason) => reason,
            };
            tried.push(endpoint.address());
            if error == Reason::Overflow || tried.len() >= TRIES {
                return Err(error);
            }
            let another = upstream.another(self.facts.destination, &tried, deadline);
            endpoint = another.await.ok_or(error)?;
        }
    }

    async fn connect_to(&self, upstream: &Upstream, endpoint: &Arc<Endpoint>) -> Result<Passage, Reason> {
        let in_flight = endpoint.clone().begin_connection();
        let in_flight = in_flight.map_err(|error| {
            tracing::info!(cluster = upstream.name(), %error, "a connection was refused");
            Reason::Overflow
        })?;
        let connected = in_flight.pass(self.context.upstreams.connector()).await;
        upstream.record(endpoint, connected.is_err());
        connected.map_err(|error| {
            tracing::info!(cluster = upstream.name(), %error, "no connection to the endpoint");
            error.reason()
        })
    }

    /// Returns when the listener does not let this connection in any more.
    async fn revoked(&self) {
        let mut standing = self.assembly.watch();
        loop {
            if standing.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let now = standing.borrow_and_update().clone();
            let Standing::Ready(resolved) = now else {
                if matches!(now, Standing::Absent) {
                    return;
                }
                continue;
            };
            if resolved.admitting(self.facts, self.peer.as_deref()).is_err() {
                return;
            }
        }
    }
}
