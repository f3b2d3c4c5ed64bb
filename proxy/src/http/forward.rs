//! One request, from its route to its response.

use std::sync::Arc;

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};

use http_body::Body as _;
use tokio::{sync::watch, time::Instant};

use super::{
    Body, Session,
    exchange::{Exchange, Observers, unavailable},
    flow::Way,
    headers,
    rescue::Refusal,
    session::Serving,
    upgrade,
};
use crate::{
    admit::{Denied, admit_request},
    assemble::{Chain, HttpChain, Standing, Targets, Terminal},
    model::{Destination, Http, RouteAction},
    policy,
    reason::Reason,
    route::{self, Matched},
    upstream::{Endpoint, Upstream},
};

/// Answers a request: by forwarding it, or as its route says.
///
/// # Errors
/// With what the client is to be told when it is refused or there is no response.
pub(super) async fn answer(
    session: &Arc<Session>,
    serving: &Serving,
    mut request: Box<Request<Body>>,
    observers: &mut Observers,
) -> Result<Response<Body>, Refusal> {
    let mut standing = None;
    let mut latest: Option<Serving> = None;
    let chosen = loop {
        let serving = latest.as_ref().unwrap_or(serving);
        let lull = match choose(session, serving, &policy::Request::of(&request)) {
            Ok(chosen) => break chosen,
            Err(Unchosen::Refused(refusal)) => return Err(refusal),
            Err(Unchosen::Lull(lull)) => lull,
        };
        let standing = standing.get_or_insert_with(|| session.assembly.watch());
        latest = Some(lull.end(session, standing).await?);
    };
    let Chosen {
        http,
        matched,
        destination,
        upstream,
        endpoint,
    } = chosen;
    let wanted = headers::wanted_upgrade(&request);
    if let Some(wanted) = &wanted {
        check_upgrade(wanted, &http.http, destination)?;
    }
    let asked = wanted.is_some().then(|| head(&request));
    let rewritten = matched.rewrite(request.uri());
    matched.change_request(request.headers_mut());
    headers::retarget(&mut request, rewritten, destination.host_rewrite.as_ref());
    let idle_timeout = destination.idle_timeout.or(http.http.stream_idle_timeout);
    if let Some(limit) = idle_timeout {
        let idle = session.spare.take(limit, observers.flow.as_ref());
        observers.flow = idle.flow().cloned();
        observers.idle = Some(idle);
    }
    if let Some(flow) = &observers.flow
        && !request.body().is_end_stream()
    {
        request.body_mut().watch().flow = Some((flow.clone(), Way::Received));
    }
    let connect = request.method() == Method::CONNECT;
    let client = wanted.is_some().then(|| upgrade::Client::of(&mut request));
    if client.is_some() {
        keep_upgrade(&mut request);
    } else {
        headers::strip_hop_by_hop(request.headers_mut());
    }
    let exchange = Exchange {
        session,
        upstream,
        destination,
        upgrading: client.is_some(),
    };
    let mut response = exchange.run(request, endpoint, observers).await?;
    let switched =
        response.status() == StatusCode::SWITCHING_PROTOCOLS || connect && response.status().is_success();
    match client.zip(asked) {
        Some((client, asked)) if switched => {
            let endpoint = match response.body_mut().take_switched() {
                Some(switched) => upgrade::Endpoint::Switched(Box::new(switched)),
                None => upgrade::Endpoint::Stream(hyper::upgrade::on(&mut response)),
            };
            let lease = response.body_mut().take_lease();
            let guard = session.context.drain.guard();
            let revoked = revoked(session.clone(), asked);
            tokio::spawn(upgrade::splice(
                client,
                endpoint,
                idle_timeout,
                revoked,
                lease,
                guard,
            ));
        }
        _ => headers::strip_hop_by_hop(response.headers_mut()),
    }
    matched.change_response(response.headers_mut());
    Ok(response)
}

/// Where a request goes.
struct Chosen<'a> {
    http: &'a HttpChain,
    matched: Matched<'a>,
    destination: &'a Destination,
    upstream: &'a Arc<Upstream>,
    endpoint: Arc<Endpoint>,
}

/// Why a request goes nowhere.
enum Unchosen {
    Refused(Refusal),
    Lull(Lull),
}

impl From<Refusal> for Unchosen {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Its cluster has lost the last endpoint just now.
struct Lull {
    upstream: Arc<Upstream>,
    until: Instant,
    refusal: Refusal,
}

impl Lull {
    /// Waits for the rest of the change, and gives what is in force then.
    async fn end(
        self,
        session: &Session,
        standing: &mut watch::Receiver<Standing>,
    ) -> Result<Serving, Refusal> {
        let ended = tokio::select! {
            changed = standing.changed() => changed.is_ok(),
            refilled = self.upstream.refilled(session.facts.destination, self.until) => refilled,
        };
        match ended {
            true => session.chain().map_err(closed),
            false => Err(self.refusal),
        }
    }
}

/// Judges a request and chooses its endpoint.
fn choose<'a>(
    session: &Session,
    serving: &'a Serving,
    asked: &policy::Request<'_>,
) -> Result<Chosen<'a>, Unchosen> {
    let Terminal::Http(http) = &serving.chain.terminal else {
        return Err(closed(Reason::NoFilterChain).into());
    };
    if let Some(next) = &serving.next {
        forestall(session, next, asked)?;
    }
    let matched = judge(session, http, asked)?;
    let destination = match &matched.route.action {
        RouteAction::Forward(destination) => destination,
        RouteAction::Respond { status, body } => return Err(direct(*status, body).into()),
        RouteAction::Redirect { status, .. } => return Err(redirect(*status, &matched, asked).into()),
    };
    let upstream = target(http, &matched)?;
    let endpoint = upstream.pick(session.facts.destination).map_err(|lack| {
        let refusal = unavailable(lack.reason, upstream);
        match lack.until {
            Some(until) => Unchosen::Lull(Lull {
                upstream: upstream.clone(),
                until,
                refusal,
            }),
            None => Unchosen::Refused(refusal),
        }
    })?;
    Ok(Chosen {
        http,
        matched,
        destination,
        upstream,
        endpoint,
    })
}

/// The route of a request that is let in.
fn judge<'a>(
    session: &Session,
    http: &'a HttpChain,
    asked: &policy::Request<'_>,
) -> Result<Matched<'a>, Refusal> {
    let table = http.table.as_deref().ok_or_else(|| {
        Refusal::new(
            Reason::NoCluster,
            "the routes of this listener have not arrived from the control plane yet",
        )
    })?;
    let matched = route::find(table, asked);
    let rules = matched.and_then(|matched| matched.route.rbac.as_ref());
    let rules = rules.or(http.http.rbac.as_ref());
    admit_request(rules, &session.facts, session.peer.as_deref(), *asked).map_err(denied)?;
    matched.ok_or_else(|| no_route(asked))
}

/// Asks the chain that waits for its clusters, which may forbid what the one in force allows.
fn forestall(session: &Session, next: &Chain, asked: &policy::Request<'_>) -> Result<(), Refusal> {
    match &next.terminal {
        Terminal::Http(http) if http.table.is_some() => {
            let matched = judge(session, http, asked)?;
            match &matched.route.action {
                RouteAction::Respond { status, body } => Err(direct(*status, body)),
                RouteAction::Forward(_) | RouteAction::Redirect { .. } => Ok(()),
            }
        }
        Terminal::Http(_) | Terminal::Tcp(..) => Ok(()),
    }
}

/// What rules and routes look at, kept beyond the request.
fn head(request: &Request<Body>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    head
}

/// Returns when a request that was let in would not be any more.
async fn revoked(session: Arc<Session>, asked: Request<()>) {
    let mut standing = session.assembly.watch();
    while standing.changed().await.is_ok() {
        let asked = policy::Request::of(&asked);
        let allowed = session
            .chain()
            .is_ok_and(|serving| match &serving.chain.terminal {
                Terminal::Http(http) => {
                    let next = serving.next.as_ref();
                    judge(&session, http, &asked).is_ok()
                        && next.is_none_or(|next| forestall(&session, next, &asked).is_ok())
                }
                Terminal::Tcp(..) => false,
            });
        if !allowed {
            let connections = &session.context.telemetry.connections;
            connections.denied(session.direction, Reason::PolicyRevoked);
            return;
        }
    }
    std::future::pending().await
}

/// Leaves only the upgrade itself of what belongs to the client's connection.
fn keep_upgrade(request: &mut Request<Body>) {
    let protocol = request.headers_mut().remove(UPGRADE);
    headers::strip_hop_by_hop(request.headers_mut());
    if let Some(protocol) = protocol {
        request.headers_mut().insert(UPGRADE, protocol);
        request
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

fn check_upgrade(wanted: &str, http: &Http, destination: &Destination) -> Result<(), Refusal> {
    let allowed = http.upgrades.iter().chain(&destination.upgrades);
    if allowed
        .into_iter()
        .any(|allowed| allowed.eq_ignore_ascii_case(wanted))
    {
        return Ok(());
    }
    let text = format!("an upgrade to {wanted} is not let through by this listener");
    Err(Refusal::new(Reason::UpgradeRefused, text))
}

fn target<'a>(http: &'a HttpChain, matched: &Matched<'_>) -> Result<&'a Arc<Upstream>, Refusal> {
    let targets = http.targets(matched.route);
    targets
        .and_then(Targets::next)
        .ok_or_else(|| Refusal::new(Reason::NoCluster, "every cluster of the route has weight 0"))
}

pub(super) fn closed(reason: Reason) -> Refusal {
    if reason == Reason::RbacConnection {
        let text = "RBAC: access denied: no policy lets this client connect\n";
        return Refusal::new(reason, text.to_owned());
    }
    Refusal::new(
        reason,
        format!("the listener's configuration changed and does not serve this connection any more: {reason}"),
    )
}

/// Envoy's text first: people search for it.
fn denied(denied: Denied) -> Refusal {
    Refusal::new(denied.reason, format!("RBAC: access denied: {}\n", denied.text))
}

fn no_route(request: &policy::Request<'_>) -> Refusal {
    let text = format!(
        "no route matches {} {}{}\n",
        request.method,
        request.authority,
        request.path()
    );
    Refusal::new(Reason::NoRoute, text)
}

fn redirect(status: StatusCode, matched: &Matched<'_>, request: &policy::Request<'_>) -> Refusal {
    let location = matched.location(request).map(|uri| uri.to_string());
    match location.map(HeaderValue::try_from) {
        Some(Ok(location)) => Refusal {
            status: Some(status),
            location: Some(location),
            ..Refusal::new(Reason::DirectResponse, "")
        },
        _ => Refusal::new(
            Reason::NoRoute,
            "the route's redirect leads to no valid address\n",
        ),
    }
}

fn direct(status: StatusCode, body: &Arc<str>) -> Refusal {
    let mut refusal = Refusal::new(Reason::DirectResponse, body.to_string());
    refusal.status = Some(status);
    refusal
}
