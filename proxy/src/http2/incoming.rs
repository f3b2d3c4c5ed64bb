//! What comes over a stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::response;
use http_body::{Body, Frame, SizeHint};

use super::{Error, shared::Shared};

/// The body of a message, taken from its connection by whoever polls it. Dropped before its end it tells the peer
/// that no one wants the rest.
#[derive(Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
    id: u32,
    /// All of it was read, or there is no more to be had.
    done: bool,
}

impl Incoming {
    /// Of a stream that is there.
    pub(super) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self {
            shared,
            id,
            done: false,
        }
    }

    /// Of a message that was all in its head.
    pub(super) fn ended(shared: Arc<Shared>, id: u32) -> Self {
        let done = true;
        Self { shared, id, done }
    }

    /// The head of a response.
    pub(super) fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Box<response::Parts>, Error>> {
        let mut state = self.shared.lock();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(Error::Closed));
        };
        if let Some(head) = stream.head.take() {
            if stream.bodiless {
                self.done = true;
                state.unread(self.id);
            }
            return Poll::Ready(Ok(head));
        }
        if let Some(fault) = stream.fault.clone() {
            return Poll::Ready(Err(fault));
        }
        stream.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let incoming = &mut *self;
        let mut state = incoming.shared.lock();
        let Some(stream) = state.streams.get_mut(&incoming.id) else {
            incoming.done = true;
            return Poll::Ready(Some(Err(Error::Closed)));
        };
        let piece = stream.data.pop();
        let octets = piece.as_ref().map_or(0, Bytes::len);
        let frame = match piece {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None => match stream.trailers.take() {
                Some(trailers) => Some(Ok(Frame::trailers(*trailers))),
                None if stream.received => None,
                None => match &stream.fault {
                    Some(fault) => Some(Err(fault.clone())),
                    None => {
                        stream.reader = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                },
            },
        };
        incoming.done = stream.is_read() || !matches!(frame, Some(Ok(_)));
        if octets > 0 {
            state.release(incoming.id, octets);
        }
        if incoming.done {
            state.unread(incoming.id);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        // Its length, where it is known, is in the message's head.
        if self.done {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.done {
            self.shared.lock().unread(self.id);
        }
    }
}
