//! A client's connection while a request and its response are under way.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Error, framing::Framing, receiving::Receiving};
use crate::http::limits;

/// What a client that expects it waits for before it sends a body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's connection, which one task reads a request's body from while another may write the response.
pub(super) struct Wire<T> {
    pub(super) io: T,
    /// Bytes that came and were not taken.
    pub(super) read: BytesMut,
    receiving: Receiving,
    /// What is left to write of [`CONTINUE`].
    promise: &'static [u8],
    /// Someone has the body.
    held: bool,
    discarded: usize,
    /// Who writes the response, and waits for the body's end.
    server: Option<Waker>,
    /// Who reads the body, and waits to write.
    reader: Option<Waker>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    pub(super) fn new(io: T, read: BytesMut) -> Self {
        Self {
            io,
            read,
            receiving: Receiving::new(Framing::Empty),
            promise: b"",
            held: false,
            discarded: 0,
            server: None,
            reader: None,
        }
    }

    /// A body begins that no one has yet; `expects`: its client waits until it is wanted.
    pub(super) fn begin(&mut self, framing: Framing, expects: bool) {
        self.receiving = Receiving::new(framing);
        self.promise = if expects { CONTINUE } else { b"" };
        self.discarded = 0;
    }

    /// What must still be written before a response, or `None` where the client is told nothing and may never send the
    /// body.
    pub(super) fn break_promise(&mut self) -> Option<&'static [u8]> {
        let promise = std::mem::take(&mut self.promise);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        (promise.len() < CONTINUE.len()).then_some(promise)
    }

    /// Someone has the body now.
    pub(super) fn hold(&mut self) {
        self.held = true;
    }

    /// No one has it any more.
    pub(super) fn let_go(&mut self) {
        self.held = false;
        self.wake_server();
    }

    /// How far the body is read.
    pub(super) fn receiving(&self) -> &Receiving {
        &self.receiving
    }

    /// Whether someone has the body.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Reads what no one wants. Ready when nothing more comes, with whether the body was complete.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.receiving.is_over() {
            return Poll::Ready(self.receiving.is_complete());
        }
        if self.held {
            self.server = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while self.discarded < limits::DISCARDED_BYTES {
            match ready!(self.receiving.poll(cx, &mut self.io, &mut self.read)) {
                Ok(Some(frame)) => self.discarded += frame.data_ref().map_or(0, Bytes::len),
                Ok(None) => return Poll::Ready(self.receiving.is_complete()),
                Err(_) => break,
            }
        }
        Poll::Ready(false)
    }

    /// The body's next frame, for which a client that waits is told to go on.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        while !self.promise.is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, self.promise);
            if written.is_pending() {
                self.reader = Some(cx.waker().clone());
            }
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.promise = self.promise.get(written..).unwrap_or_default();
            if self.promise.is_empty() {
                let _ = Pin::new(&mut self.io).poll_flush(cx);
            }
        }
        let frame = ready!(self.receiving.poll(cx, &mut self.io, &mut self.read));
        if self.receiving.is_over() {
            self.wake_server();
        }
        Poll::Ready(frame)
    }

    fn wake_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.wake();
        }
    }
}

/// The writing side of a connection whose other side may be in use by another task.
pub(super) struct Writer<'a, T>(pub(super) &'a Mutex<Wire<T>>);

impl<T: AsyncWrite + Unpin> AsyncWrite for Writer<'_, T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().io.is_write_vectored()
    }
}
