//! A stream that gathers small writes. HTTP/2 flushes after each DATA frame: every one would be a system call, a
//! packet, and under TLS a record of its own.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Handle, RuntimeFlavor},
    task::yield_now,
};

/// Bytes that are gathered before they are written: two full TLS records.
const FULL: usize = 32 * 1024;
/// The buffer of a connection that writes little.
const LITTLE: usize = 2 * 1024;
/// How often it is waited for more in vain before it is only tried at times.
const VAIN: u8 = 16;
/// Of so many writes one is held back then, to see whether more has come.
const TRIED: u8 = 64;

/// A stream whose writes wait until its [`Outlet`] writes them, or until they are many.
#[derive(Debug)]
pub struct Gathered<S>(Arc<Mutex<Gather<S>>>);

/// Writes what was gathered whenever the task that uses the stream is about to pause.
#[derive(Debug)]
pub struct Outlet<S> {
    gather: Arc<Mutex<Gather<S>>>,
}

/// Gathers the writes of a stream. Only what [`Outlet::drive`] runs may use it: no one else writes them out.
pub fn gather<S>(stream: S) -> (Gathered<S>, Outlet<S>) {
    let gather = Arc::new(Mutex::new(Gather {
        stream,
        held: BytesMut::new(),
        unflushed: false,
        failure: Failure::None,
    }));
    (Gathered(gather.clone()), Outlet { gather })
}

#[derive(Debug)]
struct Gather<S> {
    stream: S,
    held: BytesMut,
    /// The stream itself may hold something: TLS does.
    unflushed: bool,
    failure: Failure,
}

/// A write that failed when no one was there to be told.
#[derive(Debug)]
enum Failure {
    None,
    New(io::Error),
    Told,
}

impl Failure {
    fn tell(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Self::Told) {
            Self::None => {
                *self = Self::None;
                Ok(())
            }
            Self::New(error) => Err(error),
            Self::Told => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.failure.tell()?;
        if self.held.len() >= FULL {
            ready!(self.poll_held(cx))?;
        }
        if self.held.is_empty() && buf.len() >= FULL {
            self.unflushed = true;
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        let length = buf.len().min(FULL - self.held.len());
        if self.held.capacity() - self.held.len() < length {
            // Sizes that the allocator has at hand; growth by and by would copy, too.
            let little = self.held.len() + length <= LITTLE;
            self.held
                .reserve(if little { LITTLE } else { FULL } - self.held.len());
        }
        self.held.extend_from_slice(&buf[..length]);
        Poll::Ready(Ok(length))
    }

    /// Writes what was gathered. The buffer is given back then, since the stream may be idle for long.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.held.advance(written);
        }
        self.held = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what can be written now. The rest is written when the task is woken because the stream has room; a
    /// failure wakes it too, and is told to the next who writes.
    fn let_out(&mut self, cx: &mut Context<'_>) {
        if matches!(self.failure, Failure::None)
            && let Poll::Ready(Err(error)) = self.poll_out(cx)
        {
            self.failure = Failure::New(error);
            cx.waker().wake_by_ref();
        }
    }
}

impl<S> Outlet<S> {
    /// Runs a future that uses the stream. Whenever it was polled, what it wrote is written out.
    pub fn drive<'a, F>(&'a self, user: Pin<&'a mut F>) -> Driven<'a, F, S> {
        Driven {
            user,
            outlet: self,
            patience: Patience::here(),
        }
    }
}

/// Whether it is worth to hold a write back until the other tasks have run that can. Where there are several threads,
/// the task that writes is woken by the first who has something to write, and runs before the others of its thread.
#[derive(Debug)]
pub struct Patience {
    /// What was held when the waiting began.
    waiting: Option<usize>,
    worth: u8,
    skipped: u8,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            waiting: None,
            worth: VAIN,
            skipped: 0,
        }
    }
}

impl Patience {
    /// For a task of the runtime that runs; `None`: it needs none, since who is woken there runs after the others.
    pub fn here() -> Option<Self> {
        let runtime = Handle::try_current();
        let threads = runtime.is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        threads.then(Self::default)
    }

    /// Whether the task is to pause, with so many bytes held. It is woken when the others have run.
    pub fn holds_back(&mut self, held: usize, cx: &mut Context<'_>) -> bool {
        self.waits(held) && pin!(yield_now()).poll(cx).is_pending()
    }

    /// Whether to wait, with so many bytes held.
    fn waits(&mut self, held: usize) -> bool {
        if let Some(before) = self.waiting.take() {
            self.worth = if held > before {
                VAIN
            } else {
                self.worth.saturating_sub(1)
            };
            return false;
        }
        if held == 0 || held >= FULL {
            return false;
        }
        if self.worth == 0 {
            self.skipped = (self.skipped + 1) % TRIED;
            if self.skipped > 0 {
                return false;
            }
        }
        self.waiting = Some(held);
        true
    }
}

/// A future beside the outlet of the stream it uses.
#[derive(Debug)]
pub struct Driven<'a, F, S> {
    user: Pin<&'a mut F>,
    outlet: &'a Outlet<S>,
    patience: Option<Patience>,
}

impl<F, S> Driven<'_, F, S> {
    /// The future itself.
    pub fn user(&mut self) -> Pin<&mut F> {
        self.user.as_mut()
    }
}

impl<F: Future, S: AsyncWrite + Unpin> Future for Driven<'_, F, S> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.user().poll(cx);
        let outlet = self.outlet;
        let mut gather = outlet.gather.lock();
        if polled.is_pending()
            && let Some(patience) = &mut self.patience
            && patience.holds_back(gather.held.len(), cx)
        {
            return polled;
        }
        gather.let_out(cx);
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buf)
    }
}

/// Not vectored, which has `h2` put small frames together by itself.
impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gather = self.0.lock();
        gather.unflushed = true;
        Poll::Ready(gather.failure.tell())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gather = self.0.lock();
        gather.failure.tell()?;
        ready!(gather.poll_out(cx))?;
        Pin::new(&mut gather.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
