//! The end that answers requests.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::{Either, poll_fn, select};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Error,
    connection::{Connection, End},
    head::Head,
    incoming::Incoming,
    outgoing::{Outgoing, Writer},
    receive::Begun,
    shared::Shared,
    state::Role,
    tunnel::Tunnel,
};
use crate::http::{Body, limits};

/// A connection that serves what its client begins when polled, until it ends.
pub(crate) struct Serving<S, E>(Connection<S, E>);

pub(crate) struct Service<F>(F);

pub(crate) struct Tunnels<F>(F);

/// Serves the requests of a connection, each by a task of its own with the future that `service` gives.
pub(crate) fn serve<S, F, R>(io: S, service: F) -> Serving<S, Service<F>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Box<Request<Body>>) -> R,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    Serving(Connection::new(io, Service(service)))
}

/// Serves the tunnels of a connection, of which each is given to `take`.
pub(crate) fn serve_tunnels<S, F>(io: S, take: F) -> Serving<S, Tunnels<F>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Tunnel),
{
    Serving(Connection::new(io, Tunnels(take)))
}

impl<S, E> Serving<S, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: End,
{
    /// Takes nothing more; the connection ends with the last of what has begun.
    pub(crate) fn graceful_shutdown(&mut self) {
        self.0.graceful_shutdown();
    }
}

impl<S, E> Future for Serving<S, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: End + Unpin,
{
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

impl<F, R> End for Service<F>
where
    F: FnMut(Box<Request<Body>>) -> R,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    const ROLE: Role = Role::Server;
    const LIST: u32 = limits::HEADER_LIST_BYTES;

    fn accept(&mut self, shared: &Arc<Shared>, begun: Begun) {
        let Begun { id, head, ended } = begun;
        let writer = Writer::new(shared.clone(), id);
        let body = match ended {
            true => Body::empty(),
            false => Body::http2(Incoming::new(shared.clone(), id), None),
        };
        let answering = head.map(|head| (self.0)(Box::new(Request::from_parts(head, body))));
        tokio::spawn(answer(writer, answering));
    }
}

impl<F: FnMut(Tunnel)> End for Tunnels<F> {
    const ROLE: Role = Role::Server;
    const LIST: u32 = limits::HEADER_LIST_BYTES;
    const TUNNELS: bool = true;

    fn accept(&mut self, shared: &Arc<Shared>, begun: Begun) {
        let Begun { id, head, ended } = begun;
        let incoming = match ended {
            true => Incoming::ended(shared.clone(), id),
            false => Incoming::new(shared.clone(), id),
        };
        let mut writer = Writer::new(shared.clone(), id);
        if head.is_some() {
            writer.write_head(Head::Response(StatusCode::OK, &HeaderMap::new()), false);
            (self.0)(Tunnel::new(incoming, writer, true));
        }
    }
}

/// Gives up what it is asked.
#[derive(Default)]
pub(super) struct Nothing<const TUNNELS: bool>;

impl<const TUNNELS: bool> End for Nothing<TUNNELS> {
    const ROLE: Role = Role::Server;
    const LIST: u32 = limits::HEADER_LIST_BYTES;
    const TUNNELS: bool = TUNNELS;

    fn accept(&mut self, shared: &Arc<Shared>, begun: Begun) {
        drop(Writer::new(shared.clone(), begun.id));
        if !begun.ended {
            drop(Incoming::new(shared.clone(), begun.id));
        }
    }
}

/// Answers one request, unless the client gives it up.
async fn answer(mut writer: Writer, answering: Option<impl Future<Output = Response<Body>>>) {
    let response = match answering {
        None => too_long(),
        Some(answering) => {
            let given_up = poll_fn(|cx| writer.poll_over(cx));
            match select(pin!(answering), given_up).await {
                Either::Left((response, _)) => response,
                Either::Right(_) => return,
            }
        }
    };
    let (mut head, body) = response.into_parts();
    if !head.headers.contains_key(CONTENT_LENGTH)
        && let Some(length @ 1..) = body.size_hint().exact()
    {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let bodiless = body.is_end_stream();
    writer.write_head(Head::Response(head.status, &head.headers), bodiless);
    if bodiless {
        return;
    }
    drop(head);
    let mut outgoing = Outgoing::new(writer, body);
    // Whoever reads the client's bytes is told by those that break off.
    let _ = poll_fn(|cx| outgoing.poll(cx)).await;
}

fn too_long() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    response
}
