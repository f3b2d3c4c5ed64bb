//! What the tasks of a connection share: its streams, its windows, and the bytes that wait to be written.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::Reason;

use super::{
    Error,
    frame::{self, HEAD, LARGEST},
    head::Head,
    hpack::Encoder,
    stream::Stream,
    window::{Distance, Window},
};

/// A stream's window, and the connection's, before anyone said more (RFC 9113 §6.9.2).
pub(super) const FIRST_WINDOW: i64 = 65_535;
/// The largest window that there may be.
pub(super) const LARGEST_WINDOW: i64 = 0x7fff_ffff;
/// Bytes that may wait to be written before those who write bodies wait: four full TLS records, and as much as TLS takes
/// at a time.
const FULL: usize = 64 * 1024;
/// The first buffer of what waits, as large as the allocator has at hand, and the next.
const LITTLE: usize = 8 * 1024;
const MUCH: usize = 32 * 1024;
/// Room for a head, with its frame's: most are shorter.
const HEAD_ROOM: usize = 512;
/// Streams that may be begun before the peer has said how many it takes.
const FIRST_STREAMS: u32 = 100;
/// The last stream that a connection can have.
const LAST_STREAM: u32 = 0x7fff_ffff;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) role: Role,
    pub(super) out: BytesMut,
    pub(super) encoder: Encoder,
    pub(super) streams: HashMap<u32, Stream, BuildHasherDefault<Spread>>,
    /// The last stream that the client began.
    pub(super) newest: u32,
    /// Streams that the peer takes at a time.
    pub(super) most_streams: u32,
    pub(super) window: Window,
    pub(super) distance: Distance,
    pub(super) send_window: i64,
    /// The send window of a stream that begins.
    pub(super) initial_window: i64,
    /// Streams that wait for the connection's window, or for what there is to be written.
    waiting: VecDeque<u32>,
    driver: Option<Waker>,
    /// It was woken since it last ran.
    woken: bool,
    /// No more streams begin.
    pub(super) going: bool,
    pub(super) ended: Option<Error>,
}

/// Spreads numbers that follow each other.
#[derive(Debug, Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl State {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            out: BytesMut::new(),
            encoder: Encoder::new(),
            streams: HashMap::default(),
            newest: 0,
            most_streams: FIRST_STREAMS,
            window: Window::of_connection(),
            distance: Distance::default(),
            send_window: FIRST_WINDOW,
            initial_window: FIRST_WINDOW,
            waiting: VecDeque::new(),
            driver: None,
            woken: false,
            going: false,
            ended: None,
        }
    }

    /// Takes in who is to be woken when there is something to be written.
    pub(super) fn register(&mut self, driver: &Waker) {
        self.woken = false;
        if !self.driver.as_ref().is_some_and(|known| known.will_wake(driver)) {
            self.driver = Some(driver.clone());
        }
    }

    pub(super) fn wake_driver(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// Begins a stream of the client's with a request; `last`: its head is all there is of it. Both at once, since the
    /// streams of a connection begin in the order of their numbers (RFC 9113 §5.1.1).
    ///
    /// # Errors
    /// When the connection takes no more.
    pub(super) fn begin(&mut self, head: Head<'_>, last: bool) -> Result<u32, Error> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let id = match self.newest {
            0 => 1,
            newest => newest + 2,
        };
        if self.going || id >= LAST_STREAM - 1 || self.streams.len() >= self.most_streams as usize {
            return Err(Error::Full);
        }
        self.newest = id;
        self.open(id);
        self.write_head(id, head, last);
        Ok(id)
    }

    /// Keeps a stream from now on.
    pub(super) fn open(&mut self, id: u32) -> &mut Stream {
        let stream = Stream::new(self.initial_window);
        self.streams.entry(id).insert_entry(stream).into_mut()
    }

    /// Writes what stands before a body, or behind it; `last`: nothing more comes.
    pub(super) fn write_head(&mut self, id: u32, head: Head<'_>, last: bool) {
        if self.is_over(id) {
            return;
        }
        make_room(&mut self.out, HEAD_ROOM);
        let encoder = &mut self.encoder;
        frame::put_headers(&mut self.out, id, last, |out| head.encode(encoder, out));
        self.wake_driver();
        if last {
            self.written(id);
        }
    }

    /// Writes of a body what the windows let through; `last`: it ends with that. Ready when all is written, and at
    /// once when no one wants it; [`State::poll_over`] has said who is to be woken.
    pub(super) fn poll_write(&mut self, id: u32, data: &mut Bytes, last: bool) -> Poll<()> {
        if self.is_over(id) {
            return Poll::Ready(());
        }
        let written = self.write(id, data, last);
        data.advance(written);
        if !data.is_empty() {
            return Poll::Pending;
        }
        if last {
            self.written(id);
        }
        Poll::Ready(())
    }

    /// Writes of a body's octets as many as the windows let through, and says how many; `last`: it ends with them.
    /// Who writes to the stream is woken when there is room for the rest.
    pub(super) fn write(&mut self, id: u32, data: &[u8], last: bool) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        let mut rest = data;
        let mut wrote = false;
        let blocked = loop {
            let room = room(&self.out, self.send_window.min(stream.send_window));
            if !rest.is_empty() && room == 0 {
                break true;
            }
            let (piece, behind) = rest.split_at(rest.len().min(room).min(LARGEST));
            rest = behind;
            make_room(&mut self.out, HEAD + piece.len());
            self.send_window -= length(piece.len());
            stream.send_window -= length(piece.len());
            frame::put_data(&mut self.out, id, piece, last && rest.is_empty());
            wrote = true;
            if rest.is_empty() {
                break false;
            }
        };
        if blocked && stream.send_window > 0 && !self.waiting.contains(&id) {
            stream.wanted = rest.len();
            self.waiting.push_back(id);
        }
        if wrote {
            self.wake_driver();
        }
        data.len() - rest.len()
    }

    /// Takes in how large the peer wants the windows of streams to be.
    ///
    /// # Errors
    /// When one becomes larger than it may be.
    pub(super) fn resize(&mut self, window: i64) -> Result<(), Error> {
        let change = window - std::mem::replace(&mut self.initial_window, window);
        for stream in self.streams.values_mut() {
            stream.send_window += change;
            if stream.send_window > LARGEST_WINDOW {
                let text = "a stream's window becomes too large";
                return Err(Error::Protocol(Reason::FLOW_CONTROL_ERROR, text));
            }
            stream.wake_writer();
        }
        Ok(())
    }

    /// Has those go on who waited for the connection, in turn: as many as there is room for. The others would only find
    /// it full again.
    pub(super) fn wake_waiting(&mut self) {
        let mut room = room(&self.out, self.send_window);
        while room > 0
            && let Some(id) = self.waiting.pop_front()
        {
            let stream = self.streams.get_mut(&id);
            if let Some(stream) = stream.filter(|stream| stream.writer.is_some()) {
                room = room.saturating_sub(stream.wanted);
                stream.wake_writer();
            }
        }
        if self.send_window > 0 && !self.waiting.is_empty() {
            // Their turn comes also when those before them write nothing after all.
            self.wake_driver();
        }
    }

    /// Has a stream end here and at the peer.
    pub(super) fn reset(&mut self, id: u32, error: Error) {
        if self.is_over(id) {
            return;
        }
        let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        frame::put_reset(&mut self.out, id, reason);
        self.wake_driver();
        self.fail(id, error);
    }

    /// Takes in that a stream ended.
    pub(super) fn fail(&mut self, id: u32, error: Error) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.fail(error);
        }
    }

    /// Takes in that no one reads a stream any more.
    pub(super) fn unread(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.reading = false;
        stream.trailers = None;
        let mut octets = 0;
        while let Some(piece) = stream.data.pop() {
            octets += piece.len();
        }
        let given_up = self.role == Role::Client && !stream.received;
        self.release(id, octets);
        if given_up {
            self.reset(id, Error::Reset(Reason::CANCEL));
        }
        self.forget(id);
    }

    /// Takes in that no one writes to a stream any more.
    pub(super) fn written(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.writing = false;
            self.forget(id);
        }
    }

    /// Takes in that a stream's message has come to its end.
    pub(super) fn received(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.received = true;
            stream.wake_reader();
            self.forget(id);
        }
    }

    /// Forgets a stream that no one uses. A client that still sends a request whose response it has is told that no
    /// one wants the rest (RFC 9113 §8.1).
    fn forget(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.reading || stream.writing {
            return;
        }
        if !stream.received {
            self.reset(id, Error::Reset(Reason::NO_ERROR));
        }
        if let Some(stream) = self.streams.remove(&id) {
            self.distance.give_back(&stream.window);
        }
        if self.streams.is_empty() && self.going {
            self.wake_driver();
        }
    }

    /// Ready when no one waits for what is written to a stream. Who writes is woken then, and when there is room again.
    pub(super) fn poll_over(&mut self, id: u32, cx: &Context<'_>) -> Poll<()> {
        if self.is_over(id) {
            return Poll::Ready(());
        }
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream
                .writer
                .as_ref()
                .is_some_and(|known| known.will_wake(cx.waker()))
        {
            stream.writer = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Why a stream ended before its time.
    pub(super) fn fault(&self, id: u32) -> Option<Error> {
        let stream = self.streams.get(&id);
        let fault = stream.and_then(|stream| stream.fault.clone());
        fault.or_else(|| self.ended.clone())
    }

    /// Whether nothing more is to be sent on a stream.
    fn is_over(&self, id: u32) -> bool {
        let stream = self.streams.get(&id);
        self.ended.is_some() || stream.is_none_or(|stream| stream.fault.is_some())
    }

    /// Takes in why the connection ended, and has all streams end with it.
    pub(super) fn end(&mut self, error: Error) {
        let error = self.ended.get_or_insert(error).clone();
        self.going = true;
        for stream in self.streams.values_mut() {
            stream.fail(error.clone());
        }
    }
}

/// How many octets of a body may be put behind what waits to be written, as far as a window lets them through.
fn room(out: &BytesMut, window: i64) -> usize {
    let window = usize::try_from(window).unwrap_or_default();
    window.min(FULL.saturating_sub(out.len() + HEAD))
}

/// Has a buffer grow in few steps, since growth copies.
fn make_room(out: &mut BytesMut, more: usize) {
    if out.capacity() - out.len() < more {
        let wanted = out.len() + more;
        let size = if wanted <= LITTLE {
            LITTLE
        } else {
            MUCH.max(wanted)
        };
        out.reserve(size - out.len());
    }
}

/// Octets, as windows count them.
pub(super) fn length(octets: usize) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX)
}
