//! The end that answers requests.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::{Either, poll_fn, select};
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_LENGTH};
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
};
use crate::http::{Body, limits};

/// A connection that serves requests when polled, until it ends.
pub(crate) struct Serving<S, F>(Connection<S, Service<F>>);

struct Service<F>(F);

/// Serves the requests of a connection, each by a task of its own with the future that `service` gives.
pub(crate) fn serve<S, F, R>(io: S, service: F) -> Serving<S, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Box<Request<Body>>) -> R,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    Serving(Connection::new(io, Service(service)))
}

impl<S, F, R> Serving<S, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Box<Request<Body>>) -> R,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    /// Takes no more requests; the connection ends with the last of those that have begun.
    pub(crate) fn graceful_shutdown(&mut self) {
        self.0.graceful_shutdown();
    }
}

impl<S, F, R> Future for Serving<S, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Box<Request<Body>>) -> R + Unpin,
    R: Future<Output = Response<Body>> + Send + 'static,
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

/// Gives up what it is asked.
#[derive(Default)]
pub(super) struct Nothing;

impl End for Nothing {
    const ROLE: Role = Role::Server;
    const LIST: u32 = limits::HEADER_LIST_BYTES;

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
