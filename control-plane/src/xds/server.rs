//! The streams of the aggregated discovery service: one task for each, which authenticates, feeds the stream's state
//! machine and sends what it has to say. It reads no further request while the client does not take responses, so
//! that a client that never reads costs a few messages of memory.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};
use weir_xds::{ResourceType, envoy::config::core::v3::Node, google::rpc};

use super::{
    Hub, Peer,
    accept::PeerCertificate,
    changes::Touched,
    hub::Membership,
    metrics::{Kind, Reason},
    names::Topic,
    resources::Dialect,
    service,
    view::{Moment, PodView, View},
};

/// Responses that wait for a client to read them.
const OUTGOING: usize = 2;
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// How long a pod may be unknown to the catalog when its proxy connects.
const PATIENCE: Duration = Duration::from_secs(2);
const FAREWELL: Duration = Duration::from_millis(500);
const NAMES: usize = 10_000;
const NAME_BYTES: usize = 1 << 20;
const NACK_TEXT: usize = 512;
/// Requests are read at this rate once a stream has sent many more than that.
const REQUEST_INTERVAL: Duration = Duration::from_millis(10);
/// Requests that are read at once. Of on-demand clients that begin, each asks for some hundred names one by one.
const REQUEST_BURST: u32 = 1000;

/// A protocol variant's state machine.
pub(super) trait Machine: Send + 'static {
    type Request: Message + Default + 'static;
    type Response: Message + 'static;
    const PROTOCOL: &'static str;

    /// For the sidecar of this pod.
    fn new(pod: Arc<str>) -> Self;
    /// The node of a request, which only a stream's first needs to carry.
    fn node(request: &Self::Request) -> Option<&Node>;
    /// The type URL of a response.
    fn type_url(response: &Self::Response) -> &str;
    /// Takes a request in.
    fn request(&mut self, request: &Self::Request, view: &dyn View) -> Result<Handled, Limit>;
    /// Takes a change in.
    fn changed(&mut self, touched: &Touched, view: &dyn View);
    /// The next thing to say.
    fn next(&mut self, view: &dyn View) -> Option<Self::Response>;
    /// What it follows.
    fn interest(&mut self) -> &mut Interest;
    /// How many names it holds, by type.
    fn subscribed(&self) -> [usize; ResourceType::ALL.len()];
}

/// What a request was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Handled {
    /// Taken in; with the client's complaint when it refuses the last response.
    Taken(ResourceType, Option<String>),
    /// About an older response: nothing to do.
    Stale,
    /// Of a type that is not served.
    Unknown,
}

impl Handled {
    pub(super) fn of(kind: ResourceType, error: Option<&rpc::Status>) -> Self {
        let text = |status: &rpc::Status| status.message.chars().take(NACK_TEXT).collect();
        Self::Taken(kind, error.map(text))
    }
}

/// A client subscribed to more than a proxy can need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {NAMES} resource names, or more than {NAME_BYTES} bytes of them, on one stream")]
pub(super) struct Limit;

/// The topics of the names that a session subscribed to, counted. What is held by wildcard only is not: `all`
/// stands for it.
#[derive(Default)]
pub(super) struct Interest {
    /// It subscribed to everything of some type.
    pub(super) all: bool,
    counts: HashMap<Topic, u32>,
    names: usize,
    bytes: usize,
    /// Topics whose following began (`true`) or ended since the last look.
    news: HashMap<Topic, bool>,
}

impl Interest {
    /// How many more names may be held.
    pub(super) fn room(&self) -> usize {
        NAMES.saturating_sub(self.names)
    }

    pub(super) fn add(&mut self, topic: Option<Topic>, name_bytes: usize) -> Result<(), Limit> {
        self.names += 1;
        self.bytes += name_bytes;
        if self.names > NAMES || self.bytes > NAME_BYTES {
            return Err(Limit);
        }
        if let Some(topic) = topic {
            let count = self.counts.entry(topic.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.news.insert(topic, true);
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, topic: Option<Topic>, name_bytes: usize) {
        self.names = self.names.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(name_bytes);
        let Some(topic) = topic else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&topic) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&topic);
                self.news.insert(topic, false);
            }
        }
    }

    /// The topics whose following began or ended since the last call.
    pub(super) fn take(&mut self) -> HashMap<Topic, bool> {
        std::mem::take(&mut self.news)
    }
}

/// What is to be sent on a stream: responses in frames, last a status.
pub(super) type Frames = mpsc::Receiver<Result<Bytes, Status>>;

/// Serves a stream in a task of its own until it ends or all is told to stop.
///
/// # Errors
/// When the client has not shown a certificate.
pub(super) fn open<M: Machine>(
    hub: &Arc<Hub>,
    peer: Peer,
    requests: Streaming<M::Request>,
    stop: CancellationToken,
) -> Result<Frames, Status> {
    let Some(certificate) = peer.certificate.clone() else {
        let why = "discovery needs a client certificate of the mesh; get one signed first";
        let ended = Ended::refused("no_certificate", Status::permission_denied(why));
        hub.count(&ended, &peer);
        return Err(ended.status);
    };
    let (sender, responses) = mpsc::channel(OUTGOING);
    let stream = Conversation::<M> {
        hub: hub.clone(),
        requests,
        responses: sender,
        peer,
        certificate,
    };
    tokio::spawn(stream.serve(stop));
    Ok(responses)
}

/// Why a stream ended.
struct Ended {
    reason: Option<&'static str>,
    status: Status,
}

impl Ended {
    fn refused(reason: &'static str, status: Status) -> Self {
        Self {
            reason: Some(reason),
            status,
        }
    }

    fn by_client(status: Status) -> Self {
        Self { reason: None, status }
    }

    /// No further request could be read: the client is gone, or sent what is too large or no request.
    fn unread(status: Status) -> Self {
        let of_connection = std::error::Error::source(&status).is_some();
        match status.code() {
            Code::OutOfRange => Self::refused("unreadable", status),
            Code::Internal if !of_connection => Self::refused("unreadable", status),
            _ => Self::by_client(status),
        }
    }
}

/// How fast the requests of a stream are read. A client that sends faster waits.
#[derive(Debug)]
struct Pace {
    /// When all that was read would have been, had it come evenly.
    even: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { even: now }
    }

    fn took(&mut self, now: Instant) {
        self.even = self.even.max(now) + REQUEST_INTERVAL;
    }

    /// When the next one may be read.
    fn ready(&self) -> Instant {
        self.even
            .checked_sub(REQUEST_INTERVAL * REQUEST_BURST)
            .unwrap_or(self.even)
    }
}

impl Hub {
    fn count(&self, ended: &Ended, peer: &Peer) {
        match ended.reason {
            Some(reason) => {
                self.metrics.refused.get_or_create(&Reason { reason }).inc();
                let certificate = peer.certificate.as_deref();
                warn!(peer = %peer.address, ?certificate, reason, why = ended.status.message(), "ended a discovery stream");
            }
            None => debug!(peer = %peer.address, why = ended.status.message(), "a discovery stream ended"),
        }
    }
}

struct Conversation<M: Machine> {
    hub: Arc<Hub>,
    requests: Streaming<M::Request>,
    responses: mpsc::Sender<Result<Bytes, Status>>,
    peer: Peer,
    certificate: Arc<PeerCertificate>,
}

impl<M: Machine> Conversation<M> {
    async fn serve(mut self, stop: CancellationToken) {
        let ended = tokio::select! {
            ended = self.run() => ended,
            () = stop.cancelled() => Ended::by_client(Status::unavailable("the controller is shutting down")),
        };
        self.hub.count(&ended, &self.peer);
        // A client that does not read learns it from the end of its connection.
        let _ = timeout(FAREWELL, self.responses.send(Err(ended.status))).await;
    }

    async fn run(&mut self) -> Ended {
        let first = match timeout(FIRST_MESSAGE, self.requests.message()).await {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => return Ended::by_client(Status::ok("")),
            Ok(Err(status)) => return Ended::unread(status),
            Err(_) => return Ended::refused("silent", Status::deadline_exceeded("no request came")),
        };
        let (pod, dialect) = match self.authenticate(M::node(&first)).await {
            Ok(accepted) => accepted,
            Err(ended) => return ended,
        };
        let Some(membership) = self.hub.join(pod.clone(), self.peer.address, M::PROTOCOL) else {
            let why = "this controller serves as many proxies as MeshConfig sidecar.maxDataPlaneConnections allows; \
                       try another";
            return Ended::refused("too_many_proxies", Status::resource_exhausted(why));
        };
        info!(peer = %self.peer.address, pod = %pod, protocol = M::PROTOCOL, "a proxy connected");
        let replaced = membership.mailbox.replaced.clone();
        tokio::select! {
            ended = self.converse(M::new(pod), first, &membership, dialect) => ended,
            () = replaced.cancelled() => {
                Ended::by_client(Status::aborted("a newer stream of the same proxy took over"))
            }
        }
    }

    async fn converse(
        &mut self,
        mut machine: M,
        first: M::Request,
        membership: &Membership,
        dialect: Dialect,
    ) -> Ended {
        let mut request = Some(first);
        let mut pace = Pace::new(Instant::now());
        loop {
            if let Some(request) = request.take()
                && let Err(ended) = self.take(&mut machine, &request, membership, dialect)
            {
                return ended;
            }
            if let Err(ended) = self.flush(&mut machine, membership, dialect).await {
                return ended;
            }
            let ready = pace.ready();
            let message = async {
                if ready > Instant::now() {
                    sleep_until(ready).await;
                }
                self.requests.message().await
            };
            tokio::select! {
                message = message => match message {
                    Ok(Some(message)) => {
                        pace.took(Instant::now());
                        request = Some(message);
                    }
                    Ok(None) => return Ended::by_client(Status::ok("")),
                    Err(status) => return Ended::unread(status),
                },
                touched = membership.touched() => {
                    if let Err(ended) = self.changed(&mut machine, &touched, dialect) {
                        return ended;
                    }
                }
            }
        }
    }

    fn take(
        &self,
        machine: &mut M,
        request: &M::Request,
        membership: &Membership,
        dialect: Dialect,
    ) -> Result<(), Ended> {
        let moment = self.hub.now();
        let handled = self.view(&moment, dialect, |view| machine.request(request, view));
        let handled = handled
            .map_err(|limit| Ended::refused("names_limit", Status::resource_exhausted(limit.to_string())))?;
        let metrics = &self.hub.metrics;
        let mut complaint = None;
        match handled {
            Handled::Taken(kind, nack) => {
                let kind = Kind { r#type: kind.short() };
                metrics.requests.get_or_create(&kind).inc();
                if let Some(why) = nack {
                    metrics.nacks.get_or_create(&kind).inc();
                    let pod = &self.certificate.common_name;
                    warn!(peer = %self.peer.address, pod, r#type = kind.r#type, why, "a proxy refused its configuration");
                    complaint = Some(format!("{}: {why}", kind.r#type));
                }
            }
            Handled::Stale => metrics.ignore("stale_nonce"),
            Handled::Unknown => {
                metrics.ignore("unknown_type");
                debug!(peer = %self.peer.address, "asked for a type that is not served");
            }
        }
        let interest = machine.interest();
        let all = interest.all;
        membership.follow(interest.take(), all);
        membership.report(machine.subscribed(), complaint);
        Ok(())
    }

    async fn flush(&self, machine: &mut M, membership: &Membership, dialect: Dialect) -> Result<(), Ended> {
        loop {
            // A place first, then the newest state: nothing grows stale in a queue.
            let place = tokio::select! {
                place = self.responses.reserve() => place,
                touched = membership.touched() => {
                    self.changed(machine, &touched, dialect)?;
                    continue;
                }
            };
            let Ok(place) = place else {
                return Err(Ended::by_client(Status::cancelled("the client is gone")));
            };
            let moment = self.hub.now();
            let Some(response) = self.view(&moment, dialect, |view| machine.next(view)) else {
                return Ok(());
            };
            if let Some(kind) = ResourceType::from_url(M::type_url(&response)) {
                let kind = Kind { r#type: kind.short() };
                self.hub.metrics.responses.get_or_create(&kind).inc();
            }
            match service::frame(&response) {
                Ok(frame) => place.send(Ok(frame)),
                Err(status) => return Err(Ended::refused("unsendable", status)),
            }
            membership.report(machine.subscribed(), None);
        }
    }

    fn changed(&self, machine: &mut M, touched: &Touched, dialect: Dialect) -> Result<(), Ended> {
        let moment = self.hub.now();
        self.still_there(&moment)?;
        self.view(&moment, dialect, |view| machine.changed(touched, view));
        Ok(())
    }

    fn view<R>(&self, moment: &Moment, dialect: Dialect, look: impl FnOnce(&dyn View) -> R) -> R {
        look(&PodView {
            moment,
            cache: &self.hub.cache,
            pod: moment.snapshot.pods.get(self.certificate.common_name.as_str()),
            dialect,
        })
    }

    /// The certificate's pod must be the node, and run under the certificate's ServiceAccount.
    async fn authenticate(&self, node: Option<&Node>) -> Result<(Arc<str>, Dialect), Ended> {
        let Some(node) = node else {
            return Err(Ended::refused(
                "no_node",
                Status::invalid_argument("the first request carries no node"),
            ));
        };
        let uid = &self.certificate.common_name;
        if node.id != *uid {
            let why = format!("node {:?} asked with the certificate of pod {uid:?}", node.id);
            return Err(Ended::refused("node_mismatch", Status::permission_denied(why)));
        }
        let mut moments = self.hub.watch();
        let known = moments.wait_for(|moment| moment.snapshot.pods.contains_key(uid.as_str()));
        let Ok(Ok(moment)) = timeout(PATIENCE, known)
            .await
            .map(|found| found.map(|moment| moment.clone()))
        else {
            let why = format!("pod {uid} is not known as a pod with a sidecar; try again");
            return Err(Ended::refused("unknown_pod", Status::unavailable(why)));
        };
        self.still_there(&moment)?;
        let dialect = match node.user_agent_name.as_str() {
            "envoy" => Dialect::Envoy,
            _ => Dialect::Weir,
        };
        Ok((uid.as_str().into(), dialect))
    }

    fn still_there(&self, moment: &Moment) -> Result<(), Ended> {
        let uid = self.certificate.common_name.as_str();
        let Some(pod) = moment.snapshot.pods.get(uid) else {
            return Err(Ended::refused(
                "pod_gone",
                Status::permission_denied(format!("pod {uid} is gone")),
            ));
        };
        if self.certificate.uris.iter().any(|uri| **uri == *pod.principal) {
            return Ok(());
        }
        let why = format!(
            "pod {uid} is {}, the certificate is for {:?}",
            pod.principal, self.certificate.uris
        );
        Err(Ended::refused(
            "service_account_mismatch",
            Status::permission_denied(why),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_read_at_once_and_what_goes_on_is_paced() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..REQUEST_BURST {
            assert!(pace.ready() <= start);
            pace.took(start);
        }
        pace.took(start);
        assert_eq!(pace.ready(), start + REQUEST_INTERVAL);
        let later = start + Duration::from_secs(3600);
        pace.took(later);
        assert!(pace.ready() < later);
    }
}
