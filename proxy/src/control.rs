//! The two tasks that talk to the control plane: one gets our certificate signed, one follows the configuration.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use crate::{
    config::Config,
    context::Context,
    identity::{self, Agent, Credentials},
    net::Dialer,
    xds::{Interest, Status, Stream},
};

/// The data path keeps what it uses for a while by itself, so the stream need not wait long.
const IDLE_GRACE: Duration = Duration::from_secs(5);

/// Both tasks, ready to start.
pub struct Control {
    agent: Option<Agent>,
    stream: Stream,
}

impl Control {
    /// The control plane of the bootstrap, if it names one.
    pub fn new(
        config: &Config,
        context: &Arc<Context>,
        interest: mpsc::UnboundedReceiver<Interest>,
    ) -> Option<Self> {
        let ads = config.bootstrap.ads.clone()?;
        let dialer = Dialer {
            mark: config.socket_mark,
        };
        let cluster = config
            .bootstrap
            .clusters
            .iter()
            .find(|cluster| cluster.name == ads.cluster)?;
        let (cluster, store) = (&cluster.value, &context.store);
        let agent = config.bootstrap.token_path.clone();
        let stream = Stream {
            connect: identity::connector(cluster, Credentials::Certificate, store, dialer),
            ads,
            node: config.bootstrap.node.clone(),
            store: context.store.clone(),
            interest,
            status: context.stream.clone(),
            idle_grace: IDLE_GRACE,
        };
        Some(Self {
            agent: agent.map(|token| Agent::new(cluster, token, store, dialer)),
            stream,
        })
    }

    /// How the configuration stream fares.
    pub fn status(&self) -> Status {
        self.stream.status.clone()
    }

    /// How the proxy's certificate fares; `None` when it is static.
    pub fn identity(&self) -> Option<watch::Receiver<identity::Status>> {
        self.agent.as_ref().map(Agent::status)
    }

    /// Begins to follow the control plane.
    pub fn start(self) {
        if let Some(agent) = self.agent {
            tokio::spawn(agent.run());
        }
        tokio::spawn(self.stream.run());
    }
}
