//! Bytes of any kind over a stream (RFC 9113 §8.5).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::Reason;
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Error, incoming::Incoming, outgoing::Writer};

/// Both directions of a stream that was begun with CONNECT. Each ends by itself, as those of a TCP connection do;
/// dropped before, it ends as a closed socket does.
#[derive(Debug)]
pub struct Tunnel {
    incoming: Incoming,
    writer: Writer,
    /// What came and was not read yet.
    piece: Bytes,
    accepted: bool,
    /// Why nothing more comes, if that is no end.
    fault: Option<Error>,
}

impl Tunnel {
    /// One over this stream; `accepted`: here, not yet by the peer.
    pub(super) fn new(incoming: Incoming, writer: Writer, accepted: bool) -> Self {
        Self {
            incoming,
            writer,
            piece: Bytes::new(),
            accepted,
            fault: None,
        }
    }

    /// Has it break off, which the peer takes for a connection that was reset.
    pub fn reset(&self) {
        self.writer.reset(Reason::CONNECT_ERROR);
    }

    fn poll_accepted(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if !self.accepted {
            let head = ready!(self.incoming.poll_head(cx)).map_err(broken)?;
            if !head.status.is_success() {
                let refused = format!("the peer refused the tunnel: {}", head.status);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, refused)));
            }
            self.accepted = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether more has come; `false`: nothing more does.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.piece.is_empty() {
            if let Some(fault) = &self.fault {
                return Poll::Ready(Err(broken(fault.clone())));
            }
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
                Some(Err(fault)) => self.fault = Some(fault),
                None => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_accepted(cx))?;
        let mut more = ready!(self.poll_more(cx))?;
        // As much as there is: what is written on at a time makes the system calls.
        while more && buf.remaining() > 0 {
            let length = self.piece.len().min(buf.remaining());
            buf.put_slice(&self.piece[..length]);
            self.piece.advance(length);
            more = matches!(self.poll_more(cx), Poll::Ready(Ok(true)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writer.poll_write(cx, buf).map_err(broken)
    }

    /// The connection writes out by itself what waits.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.writer.finish();
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
