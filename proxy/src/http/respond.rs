//! One request, from its client and back to it.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, Version, header::CONNECTION};

use super::{
    Body, Session,
    access::Entry,
    carried,
    exchange::Observers,
    flow::Way,
    forward,
    rescue::{self, Refusal},
};
use crate::{
    assemble::{Chain, Terminal},
    drain::Stage,
    http1::Fault,
    model::Direction,
    reason::Reason,
    telemetry::Measured,
};

/// One request: forwarded, or answered here.
pub(super) async fn respond(session: Arc<Session>, mut request: Box<Request<Body>>) -> Response<Body> {
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
        Err(refusal) => refuse(&session, refusal, grpc),
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
    if !http2 && is_ending(&session) {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Answers what is no request.
pub(super) fn reject(session: &Session, fault: Fault) -> Response<Body> {
    let mut refusal = Refusal::new(Reason::BadRequest, format!("{fault}\n"));
    refusal.status = Some(fault.status());
    refuse(session, refusal, false)
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

/// Answers in the proxy's own name.
fn refuse(session: &Session, refusal: Refusal, grpc: bool) -> Response<Body> {
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
    let connections = &session.context.telemetry.connections;
    connections.answered(session.direction, response.status(), reason);
    response
}

/// Whether the client is to send its next request over another connection.
fn is_ending(session: &Session) -> bool {
    match session.context.drain.stage() {
        Stage::Closing => true,
        Stage::Draining => session.direction != Direction::Outbound,
        Stage::Running => false,
    }
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
