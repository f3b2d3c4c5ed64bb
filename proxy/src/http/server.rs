//! Serving HTTP on one connection.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{Request, Response, Version};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use super::{
    Body,
    access::Entry,
    carried,
    exchange::Observers,
    flow::{Spare, Way},
    forward, limits, rescue,
};
use crate::{
    admit::{admit, may_admit},
    assemble::{Assembly, Chain, HttpChain, Resolved, Terminal},
    chain::{self, Facts},
    context::Context,
    detect::PREFACE,
    drain::Stage,
    model::{Codec, Direction},
    net::{Io, Replay, gather},
    reason::Reason,
    telemetry::{Measured, Metered},
    tls::PeerIdentity,
};

/// A connection whose client is not let in any more may finish what it began for so long.
const LAST_WORD: Duration = Duration::from_secs(1);

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
    carries: bool,
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
    fn is_between_sidecars(&self) -> bool {
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
}

impl Session {
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
    async fn withdrawn(&self) {
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

/// Serves requests until the client is done or the shutdown asks to finish.
///
/// # Errors
/// When the connection breaks or is not HTTP.
pub async fn serve(io: Metered<Io>, session: Arc<Session>, codec: Codec) -> Result<(), ServeError> {
    let mut io = Replay::new(io);
    let inbound = session.direction != Direction::Outbound;
    let limit = inbound.then_some(session.context.header_timeout);
    let http2 = match codec {
        Codec::Auto => within(limit, starts_http2(&mut io)).await?,
        Codec::Http1 => false,
        Codec::Http2 => true,
    };
    let serving = session.clone();
    // Apart, so that it takes no memory between requests, and is not moved when it becomes a task of its own.
    let service = service_fn(move |request: Request<Incoming>| {
        Box::pin(respond(serving.clone(), Box::new(request.map(Body::incoming))))
    });
    let drain = session.context.drain.clone();
    if http2 {
        let (io, outlet) = gather(io);
        let finishing = drain.finishing(session.direction);
        let connection = pin!(http2_builder(session.carries).serve_connection(TokioIo::new(io), service));
        let driven = outlet.drive(connection);
        finish(driven, finishing, session.withdrawn(), |driven| {
            driven.user().graceful_shutdown();
        })
        .await?;
    } else {
        let finishing = drain.cutting(session.direction);
        let connection = pin!(
            http1_builder(limit.filter(|_| session.peer.is_none()))
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades()
        );
        finish(connection, finishing, session.withdrawn(), |connection| {
            connection.as_mut().graceful_shutdown();
        })
        .await?;
    }
    Ok(())
}

/// Why a connection ended that was not done.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client broke off or sent what is not HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The connection failed before the first request.
    #[error("the connection failed before its first request: {0}")]
    Io(#[from] io::Error),
}

/// Drives a connection; once `finishing` is done it takes no further requests, and once `withdrawn` is, it soon ends.
async fn finish<C: Future<Output = hyper::Result<()>> + Unpin>(
    mut connection: C,
    finishing: impl Future<Output = ()>,
    withdrawn: impl Future<Output = ()>,
    shut: impl Fn(&mut C),
) -> hyper::Result<()> {
    let mut withdrawn = pin!(withdrawn);
    tokio::select! {
        biased;
        output = &mut connection => return output,
        () = finishing => shut(&mut connection),
        () = &mut withdrawn => {
            shut(&mut connection);
            return timeout(LAST_WORD, connection).await.unwrap_or(Ok(()));
        }
    }
    tokio::select! {
        biased;
        output = &mut connection => output,
        () = withdrawn => timeout(LAST_WORD, connection).await.unwrap_or(Ok(())),
    }
}

/// Whether the client begins with the HTTP/2 preface; one byte tells, unless it is a `P`.
async fn starts_http2(io: &mut Replay<Metered<Io>>) -> io::Result<bool> {
    loop {
        let seen = io.seen();
        let common = seen.len().min(PREFACE.len());
        if seen[..common] != PREFACE[..common] {
            return Ok(false);
        }
        if common == PREFACE.len() {
            return Ok(true);
        }
        if io.look().await? == 0 {
            return Ok(false);
        }
    }
}

async fn within<T>(limit: Option<Duration>, looking: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match limit {
        Some(limit) => timeout(limit, looking).await?,
        None => looking.await,
    }
}

/// Sidecars send whole heads, so only strangers are timed: it costs a timer for each request.
fn http1_builder(header_timeout: Option<Duration>) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .max_header_size(limits::HEADER_BYTES)
        .max_headers(limits::HEADERS)
        .half_close(true)
        // The endpoint's own `Date` goes through; a response of ours needs none.
        .auto_date_header(false)
        .header_read_timeout(header_timeout);
    builder
}

/// A connection that `carries` HTTP/1 requests brings those of many clients: what some do must not harm the others.
fn http2_builder(carries: bool) -> http2::Builder<TokioExecutor> {
    let window = if carries {
        limits::SHARED_WINDOW
    } else {
        limits::CONNECTION_WINDOW
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    if carries {
        builder.max_pending_accept_reset_streams(limits::CONCURRENT_STREAMS as usize);
    }
    builder
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(window)
        .max_concurrent_streams(limits::CONCURRENT_STREAMS)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .auto_date_header(false);
    builder
}

/// Begins the access log's line, where there is a log.
fn observe(session: &Session, chain: &Chain, request: &Request<Body>, observers: &mut Observers) {
    if let Terminal::Http(http) = &chain.terminal
        && http.http.access_log
    {
        let flow = observers.flow.get_or_insert_default();
        let server_name = &session.facts.hello.sni;
        observers.entry = Some(Entry::new(
            &session.context.access_log,
            flow,
            request,
            server_name,
        ));
    }
}

/// One request: forwarded, or answered here.
async fn respond(
    session: Arc<Session>,
    mut request: Box<Request<Body>>,
) -> Result<Response<Body>, Infallible> {
    let grpc = rescue::is_grpc(request.headers());
    let http2 = request.version() == Version::HTTP_2;
    let telemetry = &session.context.telemetry;
    if http2 && session.carries {
        carried::unload(&mut request);
    }
    let carried = http2 && request.version() == Version::HTTP_11;
    let mut observers = Observers {
        measured: (session.direction == Direction::Outbound).then(Measured::begin),
        ..Observers::default()
    };
    let answered = match session.chain() {
        Ok(serving) => {
            observe(&session, &serving.chain, &request, &mut observers);
            forward::answer(&session, &serving, request, &mut observers).await
        }
        Err(reason) => Err(forward::closed(reason)),
    };
    let reason = answered.as_ref().err().map(|refusal| refusal.reason);
    let mut response = match answered {
        Ok(response) => response,
        Err(refusal) => {
            tracing::debug!(
                reason = %refusal.reason,
                client = %session.facts.source,
                destination = %session.facts.destination,
                "{}", refusal.text
            );
            let reason = refusal.reason;
            let again = refusal.again.filter(|_| session.is_between_sidecars());
            let mut response = rescue::respond(refusal, grpc, false);
            if let Some(again) = again {
                again.put(response.headers_mut());
            }
            telemetry
                .connections
                .answered(session.direction, response.status(), reason);
            response
        }
    };
    if carried {
        carried::seal(&mut response);
    }
    if let Some(measured) = observers.measured {
        let measured = measured.answered(response.status(), &telemetry.requests);
        response.body_mut().measure(measured);
    }
    if let Some(mut entry) = observers.entry {
        entry.answered(response.status(), reason);
        let watch = response.body_mut().watch();
        watch.flow = observers.flow.map(|flow| (flow, Way::Sent));
        watch.entry = Some(entry);
    }
    *response.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let stage = session.context.drain.stage();
    if !http2
        && (stage == Stage::Closing || stage == Stage::Draining && session.direction != Direction::Outbound)
    {
        response
            .headers_mut()
            .insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// It is copied when it begins, and is held for each request under way.
    #[test]
    fn a_request_under_way_takes_little() {
        assert!(size(respond) <= 3 * 1024, "{} bytes", size(respond));
    }
}
