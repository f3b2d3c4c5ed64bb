//! The way to the control plane: one cluster of the bootstrap, reached like any other.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use crate::{
    config::Config,
    context::Context,
    model::UpstreamTls,
    upstream::Readiness,
    xds::{Connect, Interest, Io, Status, Stream},
};

/// What the control plane's connections speak.
const ALPN: [&str; 1] = ["h2"];
/// The data path keeps what it uses for a while by itself, so the stream need not wait long.
const IDLE_GRACE: Duration = Duration::from_secs(5);

/// The aggregated stream, ready to start.
pub struct Control {
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
        let stream = Stream {
            connect: connect(context, &ads.cluster, true),
            ads,
            node: config.bootstrap.node.clone(),
            store: context.store.clone(),
            interest,
            status: Status::default(),
            idle_grace: IDLE_GRACE,
        };
        Some(Self { stream })
    }

    /// Begins to follow the control plane.
    pub fn start(self) {
        tokio::spawn(self.stream.run());
    }
}

/// Opens connections to a cluster of the bootstrap; `certified` with our certificate, which is waited for, or
/// without, to get one in the first place.
pub fn connect(context: &Arc<Context>, cluster: &str, certified: bool) -> Connect {
    let context = context.clone();
    let upstream = context.upstreams.get(cluster);
    Arc::new(move || {
        let (context, upstream) = (context.clone(), upstream.clone());
        Box::pin(async move {
            let mut readiness = upstream.readiness();
            let ready = readiness.wait_for(|now| *now == Readiness::Ready);
            if !matches!(timeout(Duration::from_secs(10), ready).await, Ok(Ok(_))) {
                let text = format!("the address of cluster {} cannot be resolved", upstream.name());
                return Err(io::Error::other(text));
            }
            let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
            let endpoint = upstream
                .pick(nowhere)
                .map_err(|reason| io::Error::other(reason.as_str()))?;
            let tls = match (endpoint.tls(), &endpoint.cluster().tls) {
                (Some(_), Some(tls)) if !certified => {
                    let anonymous = UpstreamTls {
                        certificate: None,
                        ..UpstreamTls::clone(tls)
                    };
                    Some(context.tls.client(&Arc::new(anonymous)))
                }
                (tls, _) => tls.cloned(),
            };
            let connector = context.upstreams.connector();
            let io = connector
                .open(&endpoint, tls.as_deref(), &ALPN)
                .await
                .map_err(io::Error::other)?;
            Ok(Box::new(io) as Box<dyn Io>)
        })
    })
}
