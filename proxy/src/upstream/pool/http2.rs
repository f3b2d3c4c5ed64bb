//! Requests over HTTP/2, straight on the `h2` streams: the task of a request sends its head and body and takes its
//! response, so that only the connection itself has a task of its own. That spares a channel to the connection's
//! task and two more tasks for each request, which hyper's client has.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::{Either, poll_fn, select};
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{Request, Response};
use http_body::Body as _;
use tokio::sync::oneshot;

use super::{Open, SendError};
use crate::{
    http::{Body, BodyError, limits},
    net::{Io, gather},
};

/// Streams that may be begun before the peer has said how many it takes.
const FIRST_STREAMS: usize = 100;
/// Bytes of a stream that wait to be written.
const SEND_BUFFER: usize = 1024 * 1024;

/// A connection that requests share. Fields are dropped in their order: the connection ends when the last of
/// `state` is gone, and must have no `sender` then.
pub(super) struct Shared {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
    /// Requests sent over it.
    pub(super) used: u32,
}

/// What a connection and its requests have in common.
struct State {
    streams: AtomicUsize,
    closed: AtomicBool,
    /// Dropped with the last who uses the connection: `h2` does not notice that by itself.
    _in_use: oneshot::Sender<()>,
}

/// Counts as one request on its connection while it lives.
pub(super) struct Stream(Arc<State>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Begins HTTP/2 on a connection, and drives it until it ends; `open` counts as long.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn open(io: Io, open: Open) -> Result<Self, SendError> {
        let (io, outlet) = gather(io);
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::SHARED_WINDOW)
            .max_header_list_size(limits::RESPONSE_HEADER_LIST_BYTES)
            .initial_max_send_streams(FIRST_STREAMS)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false);
        let (sender, mut connection) = outlet.drive(pin!(builder.handshake(io))).await?;
        let (in_use, unused) = oneshot::channel();
        let state = Arc::new(State {
            streams: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            _in_use: in_use,
        });
        let watched = Arc::downgrade(&state);
        tokio::spawn(async move {
            // An error reaches the requests that suffer from it. Polled once no one uses it, the connection ends.
            let connection = outlet.drive(Pin::new(&mut connection));
            if let Either::Right((_, connection)) = select(connection, unused).await {
                let _ = connection.await;
            }
            if let Some(state) = watched.upgrade() {
                state.closed.store(true, Ordering::Release);
            }
            drop(open);
        });
        Ok(Self {
            sender,
            state,
            used: 0,
        })
    }

    /// A handle for one more request.
    pub(super) fn begin(&mut self) -> (SendRequest<Bytes>, Stream) {
        self.state.streams.fetch_add(1, Ordering::Relaxed);
        self.used = self.used.saturating_add(1);
        (self.sender.clone(), Stream(self.state.clone()))
    }

    pub(super) fn load(&self) -> usize {
        self.state.streams.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.closed.load(Ordering::Acquire)
    }
}

impl Stream {
    /// Has the connection taken for closed: it takes no more requests.
    fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
    }
}

/// Why there is no response.
pub(super) enum Unanswered {
    /// Nothing of the request was sent, of which this is the body.
    Unsent(Body, h2::Error),
    /// Some of it may have been.
    Sent(SendError),
}

/// Sends a request, and gives the response as soon as its head is there. What is left of the request's body then is
/// sent by a task of its own.
pub(super) async fn send(
    mut sender: SendRequest<Bytes>,
    stream: &Stream,
    head: &Request<()>,
    body: Body,
) -> Result<Response<RecvStream>, Unanswered> {
    if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
        stream.close();
        return Err(Unanswered::Unsent(body, error));
    }
    let ended = body.is_end_stream();
    let begun = sender.send_request(head.clone(), ended);
    let (mut response, to) = begun.map_err(|error| Unanswered::Sent(error.into()))?;
    drop(sender);
    let mut upload = (!ended).then(|| Upload::new(body, to));
    let answer = poll_fn(|cx| {
        if let Some(Poll::Ready(sent)) = upload.as_mut().map(|upload| upload.poll(cx)) {
            upload = None;
            sent?;
        }
        Pin::new(&mut response).poll(cx).map_err(SendError::from)
    });
    let answer = answer.await.map_err(Unanswered::Sent)?;
    if let Some(mut upload) = upload {
        tokio::spawn(poll_fn(move |cx| upload.poll(cx).map(drop)));
    }
    Ok(answer)
}

/// A request's body on its way.
struct Upload {
    body: Body,
    to: SendStream<Bytes>,
    /// A frame that waits for room in the windows, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl Upload {
    fn new(body: Body, to: SendStream<Bytes>) -> Self {
        Self {
            body,
            to,
            waiting: None,
        }
    }

    /// Ready when no more is to be sent. That the peer wants no more is no error: its response says why.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            if let Some((_, last)) = self.waiting {
                if !ready!(self.poll_room(cx)) {
                    return Poll::Ready(Ok(()));
                }
                let data = self.waiting.take().map(|(data, _)| data).unwrap_or_default();
                if self.to.send_data(data, last).is_err() || last {
                    return Poll::Ready(Ok(()));
                }
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                // A stream that the peer ended has no use for the rest.
                return self.to.poll_reset(cx).map(|_| Ok(()));
            };
            let frame = match frame {
                None => {
                    let _ = self.to.send_data(Bytes::new(), true);
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => {
                    self.to.send_reset(reason(&error));
                    return Poll::Ready(Err(SendError::Body(error)));
                }
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    let last = self.body.is_end_stream();
                    if !data.is_empty() {
                        // Of what is at hand only a byte is claimed: `send_data` claims the rest.
                        self.to.reserve_capacity(1);
                        self.waiting = Some((data, last));
                    } else if self.to.send_data(data, last).is_err() || last {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.to.reserve_capacity(0);
                        let _ = self.to.send_trailers(trailers);
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Whether there is room in the windows; `false`: the stream is over.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while self.to.capacity() == 0 {
            match ready!(self.to.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(false),
            }
        }
        Poll::Ready(true)
    }
}

/// What the peer is told when a body breaks off: what broke it, where that was HTTP/2 too.
fn reason(error: &BodyError) -> Reason {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
