//! The body of a message on its way out.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http_body::Body;

use super::{Error, head::Head, shared::Shared};
use crate::http::BodyError;

/// A body that is being written to its stream, behind its head. Dropped before its end it tells the peer that it broke off.
pub(super) struct Outgoing<B> {
    writer: Writer,
    body: B,
    /// What waits for room in the windows.
    next: Next,
}

/// What of a body is to be written next.
#[derive(Debug)]
enum Next {
    /// Whatever the body gives.
    Ask,
    Data(Bytes, bool),
    Trailers(HeaderMap),
    End,
}

/// The one who writes to a stream.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    id: u32,
    done: bool,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Outgoing<B> {
    pub(super) fn new(writer: Writer, body: B) -> Self {
        Self {
            writer,
            body,
            next: Next::Ask,
        }
    }

    /// Writes what there is. Ready when the message is written. That the peer wants no more of it is no error: what
    /// it sends says why.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            let asked = self.ask(cx);
            let Self { writer, next, .. } = self;
            let mut state = writer.shared.lock();
            if state.poll_over(writer.id, cx).is_ready() {
                writer.done = true;
                state.written(writer.id);
                return Poll::Ready(Ok(()));
            }
            match asked {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    writer.done = true;
                    state.reset(writer.id, Error::Reset(reason(&error)));
                    state.written(writer.id);
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(())) => {}
            }
            writer.done = match std::mem::replace(next, Next::Ask) {
                Next::Data(mut data, last) => {
                    if state.poll_write(writer.id, &mut data, last).is_pending() {
                        *next = Next::Data(data, last);
                        return Poll::Pending;
                    }
                    last
                }
                Next::Trailers(trailers) => {
                    state.write_head(writer.id, Head::Trailers(&trailers), true);
                    true
                }
                Next::End => {
                    let _ = state.poll_write(writer.id, &mut Bytes::new(), true);
                    true
                }
                Next::Ask => false,
            };
            if writer.done {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Finds out what is to be written next.
    fn ask(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while matches!(self.next, Next::Ask) {
            if self.body.is_end_stream() {
                self.next = Next::End;
                break;
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
            let Some(frame) = frame else {
                self.next = Next::End;
                break;
            };
            match frame.into_data() {
                Ok(data) => {
                    let last = self.body.is_end_stream();
                    if last || !data.is_empty() {
                        self.next = Next::Data(data, last);
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.next = Next::Trailers(trailers);
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self {
            shared,
            id,
            done: false,
        }
    }

    /// Writes a message's head; `last`: it is all there is of it.
    pub(super) fn write_head(&mut self, head: Head<'_>, last: bool) {
        self.done = last;
        self.shared.lock().write_head(self.id, head, last);
    }

    /// Writes some octets of a body, and says how many.
    ///
    /// # Errors
    /// When no one waits for them any more.
    pub(super) fn poll_write(&self, cx: &Context<'_>, data: &[u8]) -> Poll<Result<usize, Error>> {
        let mut state = self.shared.lock();
        if self.done || state.poll_over(self.id, cx).is_ready() {
            return Poll::Ready(Err(state.fault(self.id).unwrap_or(Error::Closed)));
        }
        match state.write(self.id, data, false) {
            0 if !data.is_empty() => Poll::Pending,
            written => Poll::Ready(Ok(written)),
        }
    }

    /// Has the message end.
    pub(super) fn finish(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            let mut state = self.shared.lock();
            let _ = state.poll_write(self.id, &mut Bytes::new(), true);
            state.written(self.id);
        }
    }

    /// Has the stream break off, here and at the peer.
    pub(super) fn reset(&self, reason: Reason) {
        self.shared.lock().reset(self.id, Error::Reset(reason));
    }

    /// Ready when no one waits for the message any more.
    pub(super) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        self.shared.lock().poll_over(self.id, cx)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.shared.lock();
            state.reset(self.id, Error::Reset(Reason::CANCEL));
            state.written(self.id);
        }
    }
}

/// What the peer is told when a body breaks off: what broke it, where that was HTTP/2 too.
fn reason(error: &BodyError) -> Reason {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let foreign = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
        let own = || error.downcast_ref::<Error>().and_then(Error::reason);
        if let Some(reason) = foreign.or_else(own) {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
