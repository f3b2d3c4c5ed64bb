//! The two tasks that talk to the control plane: one gets our certificate signed, one follows the configuration.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use crate::{
    config::{Config, Mode},
    context::Context,
    identity::{self, Agent, Credentials, Files},
    net::Dialer,
    xds::{Interest, Status, Stream},
};

/// The data path keeps what it uses for a while by itself, so the stream need not wait longer.
const IDLE_GRACE: Duration = Duration::from_secs(5);

/// Both tasks, ready to start.
pub struct Control {
    mode: Mode,
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
        let agent = agent.map(|token| Agent::new(cluster, token, store, dialer));
        let files = (config.mode == Mode::Identity).then(|| Files::new(config.identity_dir.clone()));
        let stream = Stream {
            connect: identity::connector(cluster, Credentials::Certificate, store, dialer),
            ads,
            node: config.bootstrap.node.clone(),
            store: context.store.clone(),
            interest,
            status: context.stream.clone(),
            idle_grace: IDLE_GRACE.min(config.service_idle),
        };
        Some(Self {
            mode: config.mode,
            agent: agent.map(|agent| match files {
                Some(files) => agent.serving(files),
                None => agent,
            }),
            stream,
        })
    }

    /// How the configuration stream fares; `None`: it is the other proxy's.
    pub fn status(&self) -> Option<Status> {
        (self.mode != Mode::Identity).then(|| self.stream.status.clone())
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
        if self.mode != Mode::Identity {
            tokio::spawn(self.stream.run());
        }
    }
}
