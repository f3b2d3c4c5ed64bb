//! Sending a request to a cluster: endpoint after endpoint, as often as the route's retry policy allows.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{
    Body, Session,
    access::Entry,
    again::{Harmless, Tries},
    carried,
    flow::{Flow, Idle, Way},
    headers,
    repeat::Repeatable,
    rescue::Refusal,
};
use crate::{
    model::{AppProtocol, Destination, Direction, Retry},
    reason::Reason,
    retry::{self, Failure},
    telemetry::Measured,
    upstream::{Another, Endpoint, SendError, Upstream},
};

/// Who is told where a request goes.
#[derive(Default)]
pub(super) struct Observers {
    /// The request metrics; `None` where they are not counted.
    pub(super) measured: Option<Measured>,
    /// The access log's line; `None` where there is no log.
    pub(super) entry: Option<Box<Entry>>,
    /// What passes of both bodies; `None` where no one asks.
    pub(super) flow: Option<Arc<Flow>>,
    /// When nothing has passed for too long; `None`: never.
    pub(super) idle: Option<Idle>,
}

impl Observers {
    fn sent_to(&mut self, upstream: &Upstream, endpoint: &Endpoint) {
        if let Some(measured) = &mut self.measured {
            measured.sent_to(endpoint.requests());
        }
        if let Some(entry) = &mut self.entry {
            entry.sent_to(upstream.name(), endpoint.address());
        }
    }
}

/// A request about to be sent.
pub(super) struct Exchange<'a> {
    pub(super) session: &'a Session,
    pub(super) upstream: &'a Upstream,
    pub(super) destination: &'a Destination,
    /// It asks for an upgrade.
    pub(super) upgrading: bool,
}

/// Why one try got no response.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("no response within the limit of {0:?} for each try")]
    PerTry(Duration),
    #[error("nothing passed for longer than the stream's idle timeout of {0:?}")]
    Idle(Duration),
}

impl TryError {
    fn reason(&self) -> Reason {
        match self {
            Self::Send(error) => error.reason(),
            Self::PerTry(_) => Reason::RequestTimeout,
            Self::Idle(_) => Reason::IdleTimeout,
        }
    }

    /// What it says about the endpoint; `None`: nothing.
    fn failure(&self) -> Option<Failure> {
        match self {
            Self::Send(error) => error.failure(),
            Self::PerTry(_) => Some(Failure::Reset),
            Self::Idle(_) => None,
        }
    }
}

/// How all tries of a request are made.
struct Sending<'a> {
    head: Request<()>,
    policy: Option<&'a Retry>,
    http2: bool,
    /// It came as HTTP/1.1 and asks for no upgrade.
    carriable: bool,
    idempotent: bool,
}

/// What one try came to.
struct Tried {
    answer: Result<Response<Body>, TryError>,
    /// Why another harms nothing.
    again: Option<Harmless>,
}

impl Sending<'_> {
    /// Whether the route's policy asks for another try.
    fn wants(&self, tried: &Tried) -> bool {
        self.policy.is_some_and(|policy| match &tried.answer {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => false,
            Ok(response) => retry::on_response(policy, response.status(), response.headers()),
            Err(error) => error
                .failure()
                .is_some_and(|failure| retry::on_failure(policy, failure)),
        })
    }
}

impl Tried {
    fn end(self, endpoint: &Endpoint, tries: &Tries) -> Result<Response<Body>, Refusal> {
        self.answer.map_err(|error| Refusal {
            again: tries.sum(self.again),
            ..failed(&error, endpoint)
        })
    }
}

impl Exchange<'_> {
    /// Sends the request within the route's timeout.
    ///
    /// # Errors
    /// With what the client is to be told when there is no response.
    pub(super) async fn run(
        &self,
        request: Box<Request<Body>>,
        endpoint: Arc<Endpoint>,
        observers: &mut Observers,
    ) -> Result<Response<Body>, Refusal> {
        observers.sent_to(self.upstream, &endpoint);
        let mut response = match self.destination.timeout {
            None => self.tries(request, endpoint, observers).await?,
            Some(limit) => {
                let deadline = Instant::now() + limit;
                let response = timeout_at(deadline, self.tries(request, endpoint, observers)).await;
                let mut response = response.map_err(|_| timed_out(limit, self.upstream))??;
                response.body_mut().watch().deadline = Some(Box::pin(sleep_until(deadline)));
                response
            }
        };
        if let Some(flow) = &observers.flow
            && !response.body().is_end_stream()
        {
            let watch = response.body_mut().watch();
            watch.flow = Some((flow.clone(), Way::Sent));
            watch.idle = observers.idle.take();
        }
        Ok(response)
    }

    async fn tries(
        &self,
        mut request: Box<Request<Body>>,
        endpoint: Arc<Endpoint>,
        observers: &mut Observers,
    ) -> Result<Response<Body>, Refusal> {
        let http1 = request.version() == Version::HTTP_11;
        let http2 = self.prepare(&mut request, &endpoint);
        let policy = self.destination.retry.as_ref().filter(|_| !self.upgrading);
        let idempotent = !self.upgrading && is_idempotent(&request);
        let (head, body) = request.into_parts();
        let way = Sending {
            head: Request::from_parts(head, ()),
            policy,
            http2,
            carriable: http1 && !http2 && !self.upgrading,
            idempotent,
        };
        let outbound = self.session.direction == Direction::Outbound;
        if policy.is_none() && !outbound && !way.idempotent {
            let tried = self.once(&way, &endpoint, body, false, observers.idle.as_mut());
            return tried.await.end(&endpoint, &Tries::default());
        }
        let repeatable = Repeatable::new(body);
        let Some(body) = repeatable.next() else {
            return Err(Refusal::new(Reason::ClientReset, "the request broke off"));
        };
        let tried = self.limited(&way, &endpoint, body, false, observers.idle.as_mut());
        let tried = tried.await;
        if tried.again.is_none() && !way.wants(&tried) {
            return tried.end(&endpoint, &Tries::default());
        }
        Box::pin(self.repeat(&way, &repeatable, endpoint, tried, observers)).await
    }

    /// Sends the request again as often as harms nothing, and as often as the policy allows.
    async fn repeat(
        &self,
        way: &Sending<'_>,
        repeatable: &Repeatable,
        mut endpoint: Arc<Endpoint>,
        mut tried: Tried,
        observers: &mut Observers,
    ) -> Result<Response<Body>, Refusal> {
        let mut tries = Tries::default();
        let mut retries = 0;
        while repeatable.can_repeat() {
            let elsewhere = self.elsewhere(&mut tries, tried.again, &endpoint).await;
            let mut retrying = None;
            let fresh = elsewhere.is_some();
            if let Some(other) = elsewhere {
                endpoint = other;
                observers.sent_to(self.upstream, &endpoint);
            } else if let Some(policy) = way.policy
                && way.wants(&tried)
                && retries < policy.num_retries
            {
                retries += 1;
                tries.retried();
                retrying = self.upstream.retry(&endpoint);
                if retrying.is_none() {
                    break;
                }
                sleep(retry::pause(policy, retries, rand::random())).await;
                endpoint = self.endpoint(observers)?;
            } else {
                break;
            }
            let Some(body) = repeatable.next() else { break };
            drop(tried);
            tried = self
                .limited(way, &endpoint, body, fresh, observers.idle.as_mut())
                .await;
            drop(retrying);
        }
        tried.end(&endpoint, &tries)
    }

    /// Where a request may be sent although no policy says so. The application behind an inbound sidecar is the only
    /// one there; to ask another pod is the client's sidecar's part.
    async fn elsewhere(
        &self,
        tries: &mut Tries,
        why: Option<Harmless>,
        failed: &Arc<Endpoint>,
    ) -> Option<Arc<Endpoint>> {
        let why = why?;
        if self.session.direction != Direction::Outbound && why == Harmless::Unsent {
            return None;
        }
        let original = self.session.facts.destination;
        match tries.next(why, self.upstream, original, failed).await? {
            Another::Found(endpoint) => Some(endpoint),
            Another::NotYet | Another::Never => Some(failed.clone()),
        }
    }

    fn endpoint(&self, observers: &mut Observers) -> Result<Arc<Endpoint>, Refusal> {
        let endpoint = self.upstream.pick(self.session.facts.destination);
        let endpoint = endpoint.map_err(|lack| unavailable(lack.reason, self.upstream))?;
        observers.sent_to(self.upstream, &endpoint);
        Ok(endpoint)
    }

    /// Makes the request ready for the version that the endpoint speaks, and says whether that is HTTP/2.
    fn prepare(&self, request: &mut Request<Body>, endpoint: &Endpoint) -> bool {
        let http2 = match endpoint.cluster().protocol {
            AppProtocol::Downstream => request.version() == Version::HTTP_2,
            AppProtocol::Http1 => false,
            AppProtocol::Http2 => !self.upgrading,
        };
        if http2 {
            headers::to_http2(request);
        } else {
            headers::to_http1(request);
        }
        http2
    }

    /// One try within the limit of each.
    async fn limited(
        &self,
        way: &Sending<'_>,
        endpoint: &Arc<Endpoint>,
        body: Body,
        fresh: bool,
        idle: Option<&mut Idle>,
    ) -> Tried {
        let once = self.once(way, endpoint, body, fresh, idle);
        let Some(limit) = way.policy.and_then(|policy| policy.per_try_timeout) else {
            return once.await;
        };
        timeout(limit, once).await.unwrap_or_else(|_| {
            self.upstream.record(endpoint, true);
            Tried {
                answer: Err(TryError::PerTry(limit)),
                again: None,
            }
        })
    }

    /// One try; `fresh`: over a new connection.
    async fn once(
        &self,
        way: &Sending<'_>,
        endpoint: &Arc<Endpoint>,
        body: Body,
        fresh: bool,
        idle: Option<&mut Idle>,
    ) -> Tried {
        let connector = self.session.context.upstreams.connector();
        let sending = pin!(async {
            let in_flight = endpoint.clone().begin().map_err(SendError::from)?;
            if way.http2 {
                in_flight.send_http2(connector, &way.head, body).await
            } else if way.carriable && !fresh && in_flight.is_crowded() && carried::can_carry(&way.head) {
                in_flight.send_carried(connector, &way.head, body).await
            } else {
                in_flight.send_http1(connector, &way.head, body, fresh).await
            }
        });
        let mut answer = match idle {
            Some(idle) => unless_idle(idle, sending).await,
            None => sending.await.map_err(TryError::Send),
        };
        let again = match &mut answer {
            Ok(response) => {
                self.upstream
                    .record(endpoint, response.status().is_server_error());
                let believed = self.session.direction == Direction::Outbound && endpoint.tls().is_some();
                Harmless::take(response.headers_mut()).filter(|_| believed)
            }
            Err(error) => {
                if error.failure().is_some() {
                    self.upstream.record(endpoint, true);
                }
                match error {
                    TryError::Send(error) => Harmless::after(error, way.idempotent),
                    TryError::PerTry(_) | TryError::Idle(_) => None,
                }
            }
        };
        Tried { answer, again }
    }
}

/// Whether to do it twice is to do it once; of requests with a body none is taken to be.
fn is_idempotent(request: &Request<Body>) -> bool {
    request.method().is_idempotent() && request.method() != Method::CONNECT && request.body().is_end_stream()
}

/// Waits for a response as long as anything passes.
async fn unless_idle<T>(
    idle: &mut Idle,
    mut sending: Pin<&mut impl Future<Output = Result<T, SendError>>>,
) -> Result<T, TryError> {
    poll_fn(|cx| {
        if let Poll::Ready(answer) = sending.as_mut().poll(cx) {
            return Poll::Ready(answer.map_err(TryError::Send));
        }
        idle.poll(cx).map(|()| Err(TryError::Idle(idle.limit)))
    })
    .await
}

pub(super) fn unavailable(reason: Reason, upstream: &Upstream) -> Refusal {
    let name = upstream.name();
    let text = match reason {
        Reason::NoCluster => format!("the cluster {name} is not known"),
        _ => format!("no healthy endpoint of {name}"),
    };
    Refusal::new(reason, text)
}

fn failed(error: &TryError, endpoint: &Endpoint) -> Refusal {
    tracing::debug!(endpoint = %endpoint.address(), %error, "no response from the endpoint");
    Refusal::new(
        error.reason(),
        format!("upstream {}: {error}", endpoint.address()),
    )
}

fn timed_out(limit: Duration, upstream: &Upstream) -> Refusal {
    let text = format!(
        "no response from {} within the route's timeout of {limit:?}",
        upstream.name()
    );
    Refusal::new(Reason::RequestTimeout, text)
}
