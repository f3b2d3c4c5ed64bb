//! Opaque connections from another sidecar which share one connection, each through a tunnel of its own.
//!
//! To each of them applies what applies to a connection: it is counted, authorized when it begins and for as long as it
//! is open, and ended by itself.

use std::{sync::Arc, time::Instant};

use crate::{
    assemble::{Assembly, Terminal},
    chain::Facts,
    context::Context,
    http2::{self, Tunnel},
    model::Direction,
    net::Io,
    reason::Reason,
    tcp::Opaque,
    telemetry::Protocol,
    tls::PeerIdentity,
};

/// A connection that opaque connections share.
pub struct Tunnels {
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
}

impl Tunnels {
    /// Serves all that come over `io`. A pod that ends takes no more of them, and lets them go on which have begun.
    pub async fn serve(self, io: Io) {
        let tunnels = Arc::new(self);
        let drain = tunnels.context.drain.clone();
        let taking = tunnels.clone();
        let mut connection = http2::serve_tunnels(io, move |tunnel| {
            tokio::spawn(taking.clone().take(tunnel));
        });
        let served = tokio::select! {
            biased;
            served = &mut connection => served,
            () = drain.finishing(tunnels.direction) => {
                connection.graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            let Facts {
                source, destination, ..
            } = &tunnels.facts;
            tracing::debug!(%source, %destination, %error, "a connection that others share ended");
        }
    }

    async fn take(self: Arc<Self>, tunnel: Tunnel) {
        let _guard = self.context.drain.guard();
        if let Err(reason) = self.forward(tunnel).await {
            self.context.telemetry.connections.denied(self.direction, reason);
            let Facts {
                source, destination, ..
            } = &self.facts;
            tracing::debug!(%source, %destination, %reason, "a connection was closed");
        }
    }

    async fn forward(&self, tunnel: Tunnel) -> Result<(), Reason> {
        let refused = |reason| {
            tunnel.reset();
            Err(reason)
        };
        let Ok(_room) = self.context.inbound_room.clone().try_acquire_owned() else {
            return refused(Reason::Overflow);
        };
        let Some(resolved) = self.assembly.now().clone() else {
            return refused(Reason::NoFilterChain);
        };
        let chain = match resolved.admitting(&self.facts, self.peer.as_deref()) {
            Ok(chain) => chain,
            Err(denied) => {
                let Facts {
                    source, destination, ..
                } = &self.facts;
                tracing::info!(%source, %destination, reason = %denied.reason, "{}", denied.text);
                return refused(denied.reason);
            }
        };
        if !chain.within_rate(Instant::now()) {
            return refused(Reason::RateLimited);
        }
        let Terminal::Tcp(tcp, targets) = &chain.terminal else {
            return refused(Reason::NoFilterChain);
        };
        let open = &self.context.telemetry.connections;
        let open = open.open(self.direction, Protocol::Tcp, chain.tls.is_some());
        let opaque = Opaque {
            context: &self.context,
            assembly: &self.assembly,
            facts: &self.facts,
            peer: self.peer.clone(),
        };
        let client = open.meter(Io::Tunnelled(tunnel));
        let (reason, _copied) = opaque.forward(client, tcp, targets).await;
        match reason {
            Reason::Closed => Ok(()),
            reason => Err(reason),
        }
    }
}
