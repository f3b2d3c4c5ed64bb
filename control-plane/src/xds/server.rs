//! The streams of the aggregated discovery service: one task for each, which authenticates, feeds the stream's state
//! machine and sends what it has to say. It reads no further request while the client does not take responses, so
//! that a client that never reads costs a few messages of memory.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};
use weir_xds::{ResourceType, envoy::config::core::v3::Node};

use super::{
    Hub, Peer,
    accept::PeerCertificate,
    changes::Touched,
    hub::Membership,
    machine::{Handled, Machine},
    metrics::Kind,
    pace::{Pace, Passed, Rate},
    requests::{Requests, Unread},
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
/// Requests of a stream that are read. Of on-demand clients that begin, each asks for some hundred names one by one.
const REQUESTS: Rate = Rate {
    burst: 1000,
    interval: Duration::from_millis(10),
};

/// What is to be sent on a stream: responses in frames, last a status.
pub(super) type Frames = mpsc::Receiver<Result<Bytes, Status>>;

/// Serves a stream in a task of its own until it ends or all is told to stop.
///
/// # Errors
/// When the client has not shown a certificate.
pub(super) fn open<M: Machine>(
    hub: &Arc<Hub>,
    peer: Peer,
    requests: Requests<M::Request>,
    stop: CancellationToken,
) -> Result<Frames, Status> {
    let Some(certificate) = peer.certificate.clone() else {
        let why = "discovery needs a client certificate of the mesh; get one signed first";
        let ended = Ended::refused("no_certificate", Status::permission_denied(why));
        hub.count(&ended, &peer);
        return Err(ended.status);
    };
    let (sender, responses) = mpsc::channel(OUTGOING);
    let stream = Conversation {
        hub: hub.clone(),
        responses: sender,
        peer,
        certificate,
    };
    tokio::spawn(stream.serve::<M>(requests, stop));
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

    fn unread(why: Unread) -> Self {
        match why {
            Unread::Gone(status) => Self::by_client(status),
            Unread::Broken(status) => Self::refused("unreadable", status),
        }
    }
}

impl Hub {
    fn count(&self, ended: &Ended, peer: &Peer) {
        match ended.reason {
            Some(reason) => {
                self.metrics.refuse(reason);
                let certificate = peer.certificate.as_deref();
                warn!(peer = %peer.address, ?certificate, reason, why = ended.status.message(), "ended a discovery stream");
            }
            None => debug!(peer = %peer.address, why = ended.status.message(), "a discovery stream ended"),
        }
    }
}

struct Conversation {
    hub: Arc<Hub>,
    responses: mpsc::Sender<Result<Bytes, Status>>,
    peer: Peer,
    certificate: Arc<PeerCertificate>,
}

impl Conversation {
    async fn serve<M: Machine>(self, requests: Requests<M::Request>, stop: CancellationToken) {
        let ended = tokio::select! {
            ended = self.run::<M>(requests) => ended,
            () = stop.cancelled() => Ended::by_client(Status::unavailable("the controller is shutting down")),
        };
        self.hub.count(&ended, &self.peer);
        // A client that does not read learns it from the end of its connection.
        let _ = timeout(FAREWELL, self.responses.send(Err(ended.status))).await;
    }

    async fn run<M: Machine>(&self, mut requests: Requests<M::Request>) -> Ended {
        let pod = &self.certificate.common_name;
        let passed = self.hub.paces.pass(pod).await;
        self.hub.metrics.paced("stream", pod, passed);
        if passed == Passed::Displaced {
            return Ended::by_client(Status::aborted("a newer stream of the same proxy waits instead"));
        }
        let first = match timeout(FIRST_MESSAGE, requests.next()).await {
            Ok(Ok(Some(first))) => first,
            Ok(Ok(None)) => return Ended::by_client(Status::ok("")),
            Ok(Err(why)) => return Ended::unread(why),
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
            ended = self.converse(Box::new(M::new(pod)), (Box::new(first), requests), &membership, dialect) => ended,
            () = replaced.cancelled() => {
                Ended::by_client(Status::aborted("a newer stream of the same proxy took over"))
            }
        }
    }

    async fn converse<M: Machine>(
        &self,
        // A future has room for what it is given and once more for what it moves: boxes are small.
        mut machine: Box<M>,
        (first, mut requests): (Box<M::Request>, Requests<M::Request>),
        membership: &Membership,
        dialect: Dialect,
    ) -> Ended {
        let machine = &mut *machine;
        let mut request = Some(first);
        let mut pace = Pace::new(REQUESTS, Instant::now());
        loop {
            if let Some(request) = request.take()
                && let Err(ended) = self.take(machine, &request, membership, dialect)
            {
                return ended;
            }
            if let Err(ended) = self.flush(machine, membership, dialect).await {
                return ended;
            }
            let ready = pace.ready();
            let message = async {
                if ready > Instant::now() {
                    sleep_until(ready).await;
                }
                requests.next().await
            };
            tokio::select! {
                message = message => match message {
                    Ok(Some(message)) => {
                        pace.took(Instant::now());
                        request = Some(Box::new(message));
                    }
                    Ok(None) => return Ended::by_client(Status::ok("")),
                    Err(why) => return Ended::unread(why),
                },
                touched = membership.touched() => {
                    if let Err(ended) = self.changed(machine, &touched, dialect) {
                        return ended;
                    }
                }
            }
        }
    }

    fn take<M: Machine>(
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

    async fn flush<M: Machine>(
        &self,
        machine: &mut M,
        membership: &Membership,
        dialect: Dialect,
    ) -> Result<(), Ended> {
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

    fn changed<M: Machine>(&self, machine: &mut M, touched: &Touched, dialect: Dialect) -> Result<(), Ended> {
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
