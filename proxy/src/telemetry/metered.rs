//! An open client connection, and the bytes that pass over it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::{KINDS, Kind};

/// Counts as one open connection while it lives.
#[derive(Debug)]
pub struct Open {
    kinds: Arc<[Kind; KINDS]>,
    index: usize,
}

impl Open {
    /// Counts a connection of the kind at this place.
    pub(super) fn new(kinds: Arc<[Kind; KINDS]>, index: usize) -> Self {
        let open = Self { kinds, index };
        open.kind().opened.inc();
        open.kind().open.inc();
        open
    }

    fn kind(&self) -> &Kind {
        &self.kinds[self.index]
    }

    /// Counts the bytes of this stream, and itself until the stream is dropped.
    pub fn meter<S>(self, stream: S) -> Metered<S> {
        Metered { stream, open: self }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.kind().closed.inc();
        self.kind().open.dec();
    }
}

/// A client's stream whose bytes are counted as they pass.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    open: Open,
}

impl<S> Metered<S> {
    /// The stream itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    fn sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(length)) = &written {
            self.open.kind().sent.inc_by(*length as u64);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let length = buf.filled().len() - before;
        if length > 0 {
            self.open.kind().received.inc_by(length as u64);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.sent(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
