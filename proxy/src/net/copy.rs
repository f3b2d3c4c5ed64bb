//! Copying bytes both ways until both sides are done.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// Buffer sizes, one for each pace. A direction that fills its buffer moves to the next: an idle connection
/// costs 1 KiB, a bulk stream makes few system calls and full TLS records.
const SIZES: [usize; 3] = [1024, 16 * 1024, 256 * 1024];

/// Bytes copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// From the first stream to the second.
    pub sent: u64,
    /// From the second stream to the first.
    pub received: u64,
    /// Neither side sent anything for the idle timeout, so both were closed.
    pub idle: bool,
}

/// Copies both ways. The end of one direction is passed on as a half-close, and the other goes on; `copied`
/// counts while it runs, so the counts are there also when the future is dropped or fails.
///
/// # Errors
/// When either stream fails; what was copied until then is counted.
pub async fn copy<A, B>(
    a: &mut A,
    b: &mut B,
    idle_timeout: Option<Duration>,
    copied: &mut Copied,
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut forth = Direction::new();
    let mut back = Direction::new();
    let mut idle = idle_timeout.map(|limit| Idle {
        limit,
        sleep: Box::pin(sleep(limit)),
        seen: 0,
    });
    poll_fn(|cx| {
        let there = forth.poll(cx, a, b, &mut copied.sent)?;
        let here = back.poll(cx, b, a, &mut copied.received)?;
        if there.is_ready() && here.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Some(idle) = &mut idle
            && idle.poll(cx, copied.sent + copied.received).is_ready()
        {
            copied.idle = true;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    })
    .await
}

/// The idle timeout. The timer is not touched by bytes: when it fires, it is set anew if any came.
struct Idle {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    seen: u64,
}

impl Idle {
    fn poll(&mut self, cx: &mut Context<'_>, total: u64) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if total == self.seen {
                return Poll::Ready(());
            }
            self.seen = total;
            self.sleep.as_mut().reset(Instant::now() + self.limit);
        }
    }
}

/// One direction.
struct Direction {
    buffer: Box<[u8]>,
    pace: usize,
    start: usize,
    end: usize,
    ended: bool,
    unflushed: bool,
    closed: bool,
}

impl Direction {
    fn new() -> Self {
        Self {
            buffer: Box::default(),
            pace: 0,
            start: 0,
            end: 0,
            ended: false,
            unflushed: false,
            closed: false,
        }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &mut u64,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.start < self.end {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.start..self.end]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += written;
                self.unflushed = true;
                *count += written as u64;
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.closed = true;
                self.buffer = Box::default();
                return Poll::Ready(Ok(()));
            }
            if self.poll_fill(cx, from)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
    }

    fn poll_fill<R>(&mut self, cx: &mut Context<'_>, from: &mut R) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
    {
        if self.buffer.is_empty() {
            self.buffer = vec![0; SIZES[self.pace]].into();
        }
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let length = buffer.filled().len();
        self.start = 0;
        self.end = length;
        self.ended = length == 0;
        if length == self.buffer.len() && self.pace + 1 < SIZES.len() {
            // The bytes just read are still to be written, so the larger buffer starts with them.
            self.pace += 1;
            let mut larger = vec![0; SIZES[self.pace]];
            larger[..length].copy_from_slice(&self.buffer);
            self.buffer = larger.into();
        }
        Poll::Ready(Ok(()))
    }
}
