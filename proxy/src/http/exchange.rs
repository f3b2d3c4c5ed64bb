//! Sending a request to a cluster: endpoint after endpoint, as often as the route's retry policy allows.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{
    Body, Session,
    access::Entry,
    flow::{Flow, Idle, Way},
    headers,
    repeat::Repeatable,
    rescue::Refusal,
};
use crate::{
    model::{AppProtocol, Destination, Retry},
    reason::Reason,
    retry::{self, Failure},
    telemetry::Measured,
    upstream::{Endpoint, SendError, Upstream},
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

impl Exchange<'_> {
    /// Sends the request within the route's timeout.
    ///
    /// # Errors
    /// With what the client is to be told when there is no response.
    pub(super) async fn run(
        &self,
        request: Request<Body>,
        observers: &mut Observers,
    ) -> Result<Response<Body>, Refusal> {
        let mut response = match self.destination.timeout {
            None => self.tries(request, observers).await?,
            Some(limit) => {
                let deadline = Instant::now() + limit;
                let response = timeout_at(deadline, self.tries(request, observers)).await;
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
        mut request: Request<Body>,
        observers: &mut Observers,
    ) -> Result<Response<Body>, Refusal> {
        let endpoint = self.endpoint(observers)?;
        let http2 = self.prepare(&mut request, &endpoint);
        let Some(policy) = self.destination.retry.as_ref().filter(|_| !self.upgrading) else {
            let answer = self
                .once(&endpoint, request, http2, observers.idle.as_mut())
                .await;
            return answer.map_err(|error| failed(&error, &endpoint));
        };
        Box::pin(self.retried(policy, endpoint, request, http2, observers)).await
    }

    /// Sends the request as often as the policy allows.
    async fn retried(
        &self,
        policy: &Retry,
        mut endpoint: Arc<Endpoint>,
        request: Request<Body>,
        http2: bool,
        observers: &mut Observers,
    ) -> Result<Response<Body>, Refusal> {
        let repeatable = Repeatable::new(request);
        let mut next = repeatable.next();
        let mut retrying = None;
        for n in 1.. {
            let Some(request) = next.take() else { break };
            let answer = self
                .limited(policy, &endpoint, request, http2, observers.idle.as_mut())
                .await;
            drop(retrying.take());
            let wanted = n <= policy.num_retries && again(policy, &answer);
            if wanted {
                next = repeatable.next();
                retrying = next.as_ref().and_then(|_| self.upstream.retry(&endpoint));
            }
            if retrying.is_none() {
                return answer.map_err(|error| failed(&error, &endpoint));
            }
            drop(answer);
            sleep(retry::pause(policy, n, rand::random())).await;
            endpoint = self.endpoint(observers)?;
        }
        Err(Refusal::new(
            Reason::UpstreamReset,
            "the request could not be sent again",
        ))
    }

    fn endpoint(&self, observers: &mut Observers) -> Result<Arc<Endpoint>, Refusal> {
        let endpoint = self.upstream.pick(self.session.facts.destination);
        let endpoint = endpoint.map_err(|reason| unavailable(reason, self.upstream))?;
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
        policy: &Retry,
        endpoint: &Arc<Endpoint>,
        request: Request<Body>,
        http2: bool,
        idle: Option<&mut Idle>,
    ) -> Result<Response<Body>, TryError> {
        let once = self.once(endpoint, request, http2, idle);
        let Some(limit) = policy.per_try_timeout else {
            return once.await;
        };
        match timeout(limit, once).await {
            Ok(answer) => answer,
            Err(_) => {
                self.upstream.record(endpoint, true);
                Err(TryError::PerTry(limit))
            }
        }
    }

    async fn once(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Request<Body>,
        http2: bool,
        idle: Option<&mut Idle>,
    ) -> Result<Response<Body>, TryError> {
        let connector = self.session.context.upstreams.connector();
        let sending = pin!(async {
            let in_flight = endpoint.clone().begin().map_err(SendError::from)?;
            if http2 {
                in_flight.send_http2(connector, request).await
            } else {
                in_flight.send_http1(connector, request).await
            }
        });
        let answer = match idle {
            Some(idle) => unless_idle(idle, sending).await,
            None => sending.await.map_err(TryError::Send),
        };
        match &answer {
            Ok(response) => self
                .upstream
                .record(endpoint, response.status().is_server_error()),
            Err(error) if error.failure().is_some() => self.upstream.record(endpoint, true),
            Err(_) => {}
        }
        answer
    }
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

fn again(policy: &Retry, answer: &Result<Response<Body>, TryError>) -> bool {
    match answer {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => false,
        Ok(response) => retry::on_response(policy, response.status(), response.headers()),
        Err(error) => error
            .failure()
            .is_some_and(|failure| retry::on_failure(policy, failure)),
    }
}

fn unavailable(reason: Reason, upstream: &Upstream) -> Refusal {
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
