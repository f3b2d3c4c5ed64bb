//! The one stream type of the data path.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

use super::{Replay, reset};
use crate::http2::Tunnel;

/// A connection, plain or under TLS. Vectored writes pass through unchanged.
#[derive(Debug)]
pub enum Io {
    /// Accepted, plain.
    Plain(Replay),
    /// Accepted, TLS terminated here.
    Terminated(Box<server::TlsStream<Replay>>),
    /// Opened, plain.
    Opened(TcpStream),
    /// Opened, TLS begun here.
    Originated(Box<client::TlsStream<Replay>>),
    /// Either, through a connection that others share.
    Tunnelled(Tunnel),
}

impl Io {
    /// Has it end in a way that the peer reads as "reset".
    pub fn reset(&self) {
        match self {
            Self::Plain(stream) => reset(stream.stream()),
            Self::Terminated(stream) => reset(stream.get_ref().0.stream()),
            Self::Opened(stream) => reset(stream),
            Self::Originated(stream) => reset(stream.get_ref().0.stream()),
            Self::Tunnelled(tunnel) => tunnel.reset(),
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain($stream) => $call,
            Self::Terminated($stream) => $call,
            Self::Opened($stream) => $call,
            Self::Originated($stream) => $call,
            Self::Tunnelled($stream) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Terminated(stream) => stream.is_write_vectored(),
            Self::Opened(stream) => stream.is_write_vectored(),
            Self::Originated(stream) => stream.is_write_vectored(),
            Self::Tunnelled(stream) => stream.is_write_vectored(),
        }
    }
}
