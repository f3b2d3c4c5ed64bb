//! The end that sends requests.

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
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
use crate::http::{BodyError, limits};

/// Who can send requests over a connection. It ends when none is left and the last response was read.
#[derive(Debug)]
pub(crate) struct Client(Arc<Shared>);

/// Why there is no response.
pub(crate) enum Unanswered<B> {
    /// Nothing of the request was sent, of which this is the body.
    Unsent(B),
    /// Some of it may have been.
    Broken(Error),
    /// The request's own body broke off.
    Body(BodyError),
}

/// It takes no streams.
#[derive(Default)]
pub(super) struct Requests;

impl End for Requests {
    const ROLE: Role = Role::Client;
    const LIST: u32 = limits::RESPONSE_HEADER_LIST_BYTES;

    fn accept(&mut self, _: &Arc<Shared>, _: Begun) {}
}

/// Begins HTTP/2 on a connection, which the future drives until it ends.
pub(crate) fn connect<S>(io: S) -> (Client, impl Future<Output = Result<(), Error>> + Send)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut connection = Connection::new(io, Requests);
    let client = Client::new(connection.shared.clone());
    (client, async move { poll_fn(|cx| connection.poll(cx)).await })
}

impl Client {
    fn new(shared: Arc<Shared>) -> Self {
        shared.enter();
        Self(shared)
    }

    /// Whether it takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Whether its peer owes something, does not answer, and may be gone.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.is_quiet()
    }

    /// Has it taken for closed.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    /// Sends a request, with one field more perhaps, and gives the response as soon as its head is there. What is left
    /// of the request's body then is sent by a task of its own.
    ///
    /// # Errors
    /// When there is no response.
    pub(crate) async fn send<B>(
        &self,
        head: &Request<()>,
        more: Option<&(HeaderName, HeaderValue)>,
        body: B,
    ) -> Result<Response<Incoming>, Unanswered<B>>
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
    {
        let bodiless = body.is_end_stream();
        let begun = self.0.lock().begin(Head::Request(head, more), bodiless);
        let Ok(id) = begun else {
            return Err(Unanswered::Unsent(body));
        };
        let mut incoming = Incoming::new(self.0.clone(), id);
        let mut upload = (!bodiless).then(|| Outgoing::new(Writer::new(self.0.clone(), id), body));
        let head = poll_fn(|cx| {
            if let Some(Poll::Ready(sent)) = upload.as_mut().map(|upload| upload.poll(cx)) {
                upload = None;
                sent.map_err(Unanswered::Body)?;
            }
            incoming.poll_head(cx).map_err(Unanswered::Broken)
        });
        let head = head.await?;
        if let Some(mut upload) = upload {
            tokio::spawn(poll_fn(move |cx| upload.poll(cx).map(drop)));
        }
        Ok(Response::from_parts(*head, incoming))
    }

    /// Begins a tunnel to this authority. What is sent through it does not wait for the peer to accept it.
    ///
    /// # Errors
    /// When the connection takes no more; nothing was sent then.
    pub(crate) fn tunnel(&self, authority: &str) -> Result<Tunnel, Error> {
        let id = self.0.lock().begin(Head::Connect(authority), false)?;
        let incoming = Incoming::new(self.0.clone(), id);
        let writer = Writer::new(self.0.clone(), id);
        Ok(Tunnel::new(incoming, writer, false))
    }
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.leave();
    }
}
