//! A stream whose first bytes were looked at and are read again, and that may be read ahead.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes read at a time from a stream that brings much: two TLS records.
const MUCH: usize = 32 * 1024;
/// The same from one that fills every buffer. Each read is acknowledged by itself, so fewer spare the peer work, too.
const MOST: usize = 256 * 1024;

/// A stream that gives the bytes already read before those still to come.
#[derive(Debug)]
pub struct Replay<S = TcpStream> {
    seen: BytesMut,
    stream: S,
    ahead: bool,
    /// Bytes to read at a time, as the last reads suggest; 0: no more than are asked for.
    room: usize,
}

impl<S: AsyncRead + Unpin> Replay<S> {
    /// A stream of which nothing was read yet.
    pub fn new(stream: S) -> Self {
        Self {
            seen: BytesMut::new(),
            stream,
            ahead: false,
            room: 0,
        }
    }

    /// The same, of which more is read than was asked for while it brings much: TLS asks for 4 KiB at a time.
    pub fn ahead(self) -> Self {
        Self { ahead: true, ..self }
    }

    /// A stream of which these bytes were read already.
    pub fn after(seen: BytesMut, stream: S) -> Self {
        Self {
            seen,
            ..Self::new(stream)
        }
    }

    /// The bytes looked at so far.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// The bytes looked at so far and not read again, and the stream.
    pub fn into_parts(self) -> (BytesMut, S) {
        (self.seen, self.stream)
    }

    /// Reads more bytes to look at, and gives how many came; 0 is the end of the stream. May be cancelled.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn look(&mut self) -> io::Result<usize> {
        self.seen.reserve(1024);
        self.stream.read_buf(&mut self.seen).await
    }

    /// The stream itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> Replay<S> {
    /// Reads as much as there is. An idle stream holds no buffer.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seen.reserve(self.room);
        let read = pin!(self.stream.read_buf(&mut self.seen)).poll(cx);
        if self.seen.is_empty() {
            self.seen = BytesMut::new();
        }
        read.map_ok(drop)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            let asked = buf.remaining();
            if self.room == 0 {
                let read = Pin::new(&mut self.stream).poll_read(cx, buf);
                if self.ahead && buf.remaining() == 0 && (1..MUCH).contains(&asked) {
                    self.room = MUCH;
                }
                return read;
            }
            ready!(self.poll_ahead(cx))?;
            let came = self.seen.len();
            if came >= self.room {
                self.room = MOST.min(2 * self.room);
            } else if came < asked {
                self.room = 0;
            }
        }
        let length = self.seen.len().min(buf.remaining());
        buf.put_slice(&self.seen[..length]);
        self.seen.advance(length);
        if self.seen.is_empty() && self.room == 0 {
            self.seen = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
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
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Brings so many bytes, and counts how often it is read.
    struct Source {
        left: usize,
        reads: usize,
    }

    impl AsyncRead for Source {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.reads += 1;
            if self.left == 0 {
                return Poll::Pending;
            }
            let length = buf.remaining().min(self.left);
            buf.put_slice(&vec![0; length]);
            self.left -= length;
            Poll::Ready(Ok(()))
        }
    }

    /// Reads 4 KiB at a time until there is no more for now.
    async fn drain(stream: &mut Replay<Source>) -> usize {
        let mut total = 0;
        std::future::poll_fn(|cx| {
            loop {
                let mut buffer = [0; 4096];
                let mut buffer = ReadBuf::new(&mut buffer);
                match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                    Poll::Ready(read) => read.unwrap(),
                    Poll::Pending => return Poll::Ready(()),
                }
                total += buffer.filled().len();
            }
        })
        .await;
        total
    }

    #[tokio::test]
    async fn much_is_read_in_few_pieces() {
        let source = |left| Replay::new(Source { left, reads: 0 }).ahead();
        let mut bulk = source(4 * 1024 * 1024);
        assert_eq!(drain(&mut bulk).await, 4 * 1024 * 1024);
        assert!(bulk.stream.reads <= 4096 / 256 + 6, "{} reads", bulk.stream.reads);
        assert_eq!(bulk.seen.capacity(), 0, "an idle connection holds a buffer");
        bulk.stream.left = 8 * 1024;
        bulk.stream.reads = 0;
        assert_eq!(drain(&mut bulk).await, 8 * 1024);
        assert_eq!(bulk.stream.reads, 2, "the next piece, and the end of it");
        bulk.stream.left = 10;
        assert_eq!(drain(&mut bulk).await, 10);
        assert_eq!(bulk.room, 0);

        let mut small = source(100);
        assert_eq!(drain(&mut small).await, 100);
        assert_eq!(small.seen.capacity(), 0);
        small.stream.left = 10;
        assert_eq!(drain(&mut small).await, 10, "what comes later is read too");
    }
}
