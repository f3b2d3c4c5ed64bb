//! One request, from its route to its response.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
};
use tokio::time::{Instant, timeout_at};

use super::{Body, Session, headers, rescue::Refusal, upgrade};
use crate::{
    admit::{Denied, admit_request},
    assemble::{HttpChain, Targets, Terminal},
    model::{AppProtocol, Destination, Http, RouteAction},
    policy,
    reason::Reason,
    route::{self, Matched},
    telemetry::Measured,
    upstream::{Endpoint, SendError, Upstream},
};

/// Answers a request: by forwarding it, or as its route says.
///
/// # Errors
/// With what the client is to be told when it is refused or there is no response.
pub(super) async fn answer(
    session: &Session,
    mut request: Request<Body>,
    measured: &mut Option<Measured>,
) -> Result<Response<Body>, Refusal> {
    let chain = session.chain().map_err(closed)?;
    let Terminal::Http(http) = &chain.terminal else {
        return Err(closed(Reason::NoFilterChain));
    };
    let table = http.table.as_deref().ok_or_else(|| {
        Refusal::new(
            Reason::NoCluster,
            "the routes of this listener have not arrived from the control plane yet",
        )
    })?;
    let asked = policy::Request::of(&request);
    let matched = route::find(table, &asked);
    let rules = matched.and_then(|matched| matched.route.rbac.as_ref());
    let rules = rules.or(http.http.rbac.as_ref());
    admit_request(rules, &session.facts, session.peer.as_deref(), asked).map_err(denied)?;
    let matched = matched.ok_or_else(|| no_route(&asked))?;
    let destination = match &matched.route.action {
        RouteAction::Forward(destination) => destination,
        RouteAction::Respond { status, body } => return Err(direct(*status, body)),
        RouteAction::Redirect { status, .. } => return Err(redirect(*status, &matched, &asked)),
    };
    let wanted = headers::wanted_upgrade(&request);
    if let Some(wanted) = &wanted {
        check_upgrade(wanted, &http.http, destination)?;
    }
    let rewritten = matched.rewrite(policy::Request::of(&request).target);
    matched.change_request(request.headers_mut());
    headers::retarget(&mut request, rewritten, destination.host_rewrite.as_ref());
    let upstream = target(http, &matched)?;
    let endpoint = upstream
        .pick(session.facts.destination)
        .map_err(|reason| unavailable(reason, upstream))?;
    if let Some(measured) = measured {
        measured.sent_to(endpoint.requests());
    }
    let mut response = send(
        session,
        upstream,
        endpoint,
        destination,
        request,
        wanted.is_some(),
    )
    .await?;
    matched.change_response(response.headers_mut());
    Ok(response)
}

/// Sends the request to an endpoint of the cluster, within the route's timeout.
async fn send(
    session: &Session,
    upstream: &Upstream,
    endpoint: Arc<Endpoint>,
    destination: &Destination,
    mut request: Request<Body>,
    upgrading: bool,
) -> Result<Response<Body>, Refusal> {
    let http2 = match endpoint.cluster().protocol {
        AppProtocol::Downstream => request.version() == Version::HTTP_2,
        AppProtocol::Http1 => false,
        AppProtocol::Http2 => !upgrading,
    };
    let connect = request.method() == Method::CONNECT;
    let client = upgrading.then(|| hyper::upgrade::on(&mut request));
    if upgrading {
        keep_upgrade(&mut request);
    } else {
        headers::strip_hop_by_hop(request.headers_mut());
    }
    if http2 {
        headers::to_http2(&mut request);
    } else {
        headers::to_http1(&mut request);
    }
    let connector = session.context.upstreams.connector();
    let response = async {
        let in_flight = endpoint.clone().begin()?;
        if http2 {
            in_flight.send_http2(connector, request).await
        } else {
            in_flight.send_http1(connector, request).await
        }
    };
    let mut response = match destination.timeout {
        None => response.await.map_err(|error| failed(&error, &endpoint))?,
        Some(limit) => {
            let deadline = Instant::now() + limit;
            let response = timeout_at(deadline, response)
                .await
                .map_err(|_| timed_out(limit, upstream))?;
            let response = response.map_err(|error| failed(&error, &endpoint))?;
            response.map(|body| body.ending_at(deadline))
        }
    };
    let switched =
        response.status() == StatusCode::SWITCHING_PROTOCOLS || connect && response.status().is_success();
    if let Some(client) = client
        && switched
    {
        let lease = response.body_mut().take_lease();
        let endpoint = hyper::upgrade::on(&mut response);
        let guard = session.context.drain.guard();
        tokio::spawn(upgrade::splice(client, endpoint, lease, guard));
        return Ok(response);
    }
    headers::strip_hop_by_hop(response.headers_mut());
    Ok(response)
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

fn closed(reason: Reason) -> Refusal {
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

fn unavailable(reason: Reason, upstream: &Upstream) -> Refusal {
    let name = upstream.name();
    let text = match reason {
        Reason::NoCluster => format!("the cluster {name} is not known"),
        _ => format!("no healthy endpoint of {name}"),
    };
    Refusal::new(reason, text)
}

fn failed(error: &SendError, endpoint: &Endpoint) -> Refusal {
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
