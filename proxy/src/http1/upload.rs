//! What a request brings beside its head: its body, and its connection where that changes its protocol.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{Error, Switched, framing::Framing, wire::Wire};
use crate::{net::Io, telemetry::Metered};

/// The body of a request, read off its connection by whoever polls it.
pub struct Upload<T: AsyncRead + AsyncWrite + Unpin = Metered<Io>>(Arc<Mutex<Wire<T>>>);

impl<T: AsyncRead + AsyncWrite + Unpin> Upload<T> {
    /// The body that begins on a connection; `expects`: its client waits until it is wanted.
    pub(super) fn begin(wire: &Arc<Mutex<Wire<T>>>, framing: Framing, expects: bool) -> Self {
        let mut locked = wire.lock();
        locked.begin(framing, expects);
        locked.hold();
        Self(wire.clone())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Drop for Upload<T> {
    fn drop(&mut self) {
        self.0.lock().let_go();
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Body for Upload<T> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.lock().poll_body(cx).map(Result::transpose)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().receiving().is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().receiving().size_hint()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> fmt::Debug for Upload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upload").field(self.0.lock().receiving()).finish()
    }
}

/// Among a request's extensions where it asks to speak another protocol: the connection, once that is agreed on.
#[derive(Debug)]
pub struct OnUpgrade<T = Metered<Io>>(Arc<Mutex<Option<oneshot::Receiver<Switched<T>>>>>);

impl<T> OnUpgrade<T> {
    pub(super) fn new() -> (oneshot::Sender<Switched<T>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(Arc::new(Mutex::new(Some(receiver)))))
    }

    /// The connection; `None` when nothing comes of it.
    pub async fn switched(self) -> Option<Switched<T>> {
        let receiver = self.0.lock().take();
        receiver?.await.ok()
    }
}

impl<T> Clone for OnUpgrade<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
