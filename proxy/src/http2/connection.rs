//! The task of a connection: it reads frames, puts what they bring where it is waited for, and writes out what the
//! users of the streams have written.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use h2::Reason;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, join, sink},
    time::{Sleep, sleep},
};

use super::{
    Error,
    frame::{self, Frame, Setting},
    pulse::Pulse,
    receive::{Begun, Receiver},
    shared::Shared,
    state::{FIRST_WINDOW, Role},
};
use crate::{detect::PREFACE, http::limits, net::Patience};

/// Room for what is read at a time: as much as the allocator has at hand, and more as long as reads fill it.
const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 64 * 1024;
/// Bytes read before those run who wait for them: more would only wait in memory.
const AT_ONCE: usize = 256 * 1024;
/// A client that was told of the end has so long to end, too.
const LINGER: Duration = Duration::from_secs(1);

/// What one end of a connection is, and does with what the other begins.
pub(crate) trait End {
    /// Which end it is.
    const ROLE: Role;
    /// Octets of a header list that are read, at most.
    const LIST: u32;
    /// Whether what the peer begins are tunnels, and not other requests.
    const TUNNELS: bool = false;

    /// Takes a stream that the peer has begun.
    fn accept(&mut self, shared: &Arc<Shared>, begun: Begun);
}

/// A connection: drives it when polled, until it ends.
pub(super) struct Connection<S, E> {
    io: S,
    pub(super) shared: Arc<Shared>,
    end: E,
    read: BytesMut,
    room: usize,
    /// What is being written.
    writing: BytesMut,
    unflushed: bool,
    patience: Option<Patience>,
    pulse: Pulse,
    /// How long the end of a peer is waited for that was told of ours.
    lingering: Option<Pin<Box<Sleep>>>,
    receiver: Receiver,
    /// The peer has begun as HTTP/2 begins.
    begun: bool,
}

impl<S, E> Connection<S, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: End,
{
    pub(super) fn new(io: S, end: E) -> Self {
        let shared = Arc::new(Shared::new(E::ROLE));
        let mut state = shared.lock();
        let settings = [
            Setting::EnablePush(false),
            Setting::MaxConcurrentStreams(limits::CONCURRENT_STREAMS),
            Setting::InitialWindowSize(limits::STREAM_WINDOW),
            Setting::MaxHeaderListSize(E::LIST),
        ];
        let settings = match E::ROLE {
            Role::Client => {
                state.out.extend_from_slice(PREFACE);
                &settings[..]
            }
            Role::Server => &settings[1..],
        };
        frame::put_settings(&mut state.out, settings);
        let first = u32::try_from(FIRST_WINDOW).unwrap_or_default();
        let granted = state.window.size() - first;
        frame::put_window_update(&mut state.out, 0, granted);
        drop(state);
        Self {
            io,
            shared,
            end,
            read: BytesMut::new(),
            room: FIRST_READ,
            writing: BytesMut::new(),
            unflushed: false,
            patience: Patience::here(),
            pulse: Pulse::default(),
            lingering: None,
            receiver: Receiver::new(E::ROLE, E::LIST as usize, E::TUNNELS),
            begun: E::ROLE == Role::Client,
        }
    }

    /// Takes no more streams; the connection ends with the last of those that have begun.
    pub(super) fn graceful_shutdown(&mut self) {
        self.receiver.shut(&mut self.shared.lock());
    }

    /// Ready when the connection has ended. An error of the peer's was told to it then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.lock().register(cx.waker());
        if let Poll::Ready(ended) = self.poll_read(cx) {
            self.part(&ended, cx);
            return Poll::Ready(ended);
        }
        if E::ROLE == Role::Client {
            self.pulse.poll(&self.shared, cx);
        }
        if self.holds_back(cx) {
            return Poll::Pending;
        }
        let written = self.poll_out(cx);
        if let Poll::Ready(Err(error)) = written {
            return Poll::Ready(Err(self.broken(error)));
        }
        if written.is_pending() || !self.is_done() {
            return Poll::Pending;
        }
        self.shared.close();
        let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        match E::ROLE {
            Role::Client => Poll::Ready(Ok(())),
            Role::Server => self.poll_linger(cx),
        }
    }

    /// Has all streams end with the connection, and tells the peer why as far as that needs no waiting.
    fn part(&mut self, ended: &Result<(), Error>, cx: &mut Context<'_>) {
        self.shared.close();
        let error = ended.as_ref().err().cloned().unwrap_or(Error::Closed);
        let mut state = self.shared.lock();
        state.end(error.clone());
        if let (Error::Protocol(..) | Error::Compression(_), Some(reason)) = (&error, error.reason()) {
            let newest = state.newest;
            frame::put_goaway(&mut state.out, newest, reason);
        }
        drop(state);
        let _ = self.poll_out(cx);
        let _ = Pin::new(&mut self.io).poll_shutdown(cx);
    }

    /// Waits for the client to end, too: to close a connection on what it still sends would cost it what it has not
    /// read.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let lingering = self.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        lingering.as_mut().poll(cx).map(Ok)
    }

    /// Whether there is nothing left to do.
    fn is_done(&self) -> bool {
        let state = self.shared.lock();
        state.going && state.streams.is_empty()
    }

    fn broken(&self, error: io::Error) -> Error {
        let error = Error::from(error);
        self.shared.close();
        self.shared.lock().end(error.clone());
        error
    }

    /// Whether what waits to be written waits for more, since other tasks can run.
    fn holds_back(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(patience) = &mut self.patience else {
            return false;
        };
        let waiting = self.writing.len() + self.shared.lock().out.len();
        patience.holds_back(waiting, cx)
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut woke = false;
        loop {
            if self.writing.is_empty() {
                let mut state = self.shared.lock();
                // A buffer is given back when it is written: a connection may be idle for long.
                self.writing = std::mem::take(&mut state.out);
                self.receiver.written();
                // Those woken have yet to run: until then there seems to be room for the next, too.
                if !std::mem::replace(&mut woke, true) {
                    state.wake_waiting();
                }
                if self.writing.is_empty() {
                    break;
                }
            }
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.writing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.writing.advance(written);
            self.unflushed = true;
            self.pulse.spoken();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut total = 0;
        while total < AT_ONCE {
            if self.read.capacity() - self.read.len() < self.room / 4 {
                self.read.reserve(self.room);
            }
            let before = self.read.capacity() - self.read.len();
            let Poll::Ready(read) = pin!(self.io.read_buf(&mut self.read)).poll(cx) else {
                if self.read.is_empty() {
                    self.read = BytesMut::new();
                    self.room = FIRST_READ;
                }
                return Poll::Pending;
            };
            let read = read?;
            total += read;
            if read == before {
                self.room = (self.room * 2).min(LARGEST_READ);
            }
            if read == 0 {
                return Poll::Ready(match self.shared.lock().streams.is_empty() {
                    true => Ok(()),
                    false => Err(Error::Closed),
                });
            }
            self.pulse.heard(&self.shared);
            self.take_frames()?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_frames(&mut self) -> Result<(), Error> {
        if !self.begun && !self.take_preface()? {
            return Ok(());
        }
        let shared = self.shared.clone();
        let mut state = shared.lock();
        while let Some(frame) = Frame::take(&mut self.read)? {
            self.receiver.take(&mut state, frame)?;
        }
        if state.going {
            shared.close();
        }
        drop(state);
        // Whoever takes one may need the state.
        for begun in self.receiver.begun() {
            self.end.accept(&shared, begun);
        }
        Ok(())
    }

    /// Whether the peer has begun as HTTP/2 begins.
    fn take_preface(&mut self) -> Result<bool, Error> {
        let common = self.read.len().min(PREFACE.len());
        if self.read[..common] != PREFACE[..common] {
            return Err(Error::Protocol(
                Reason::PROTOCOL_ERROR,
                "it does not begin as HTTP/2 does",
            ));
        }
        if common == PREFACE.len() {
            self.read.advance(common);
            self.begun = true;
        }
        Ok(self.begun)
    }
}

impl<S, E> Drop for Connection<S, E> {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.lock().end(Error::Closed);
    }
}

/// Takes bytes for those of a peer who then ends.
pub(super) fn swallow<E: End + Default>(bytes: &[u8]) -> Result<(), Error> {
    let mut connection = Connection::new(join(bytes, sink()), E::default());
    match connection.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ended) => ended,
        Poll::Pending => Ok(()),
    }
}
