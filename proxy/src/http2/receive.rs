//! Frames that concern a connection as a whole, header blocks, and what they begin.

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::{Method, request};

use super::{
    Error,
    arriving::protocol,
    frame::{self, Frame, LARGEST, Setting},
    head::{Fields, content_length},
    hpack::{Decoder, Outcome},
    state::{Role, State},
    window,
};
use crate::http::limits;

/// Bytes of answers to the peer's own frames that may wait. One that sends many and reads none is of no use.
const ANSWERS: usize = 256 * 1024;
/// Frames that a header block may take beside those it needs.
const PIECES: usize = 8;
/// Octets of a RST_STREAM frame.
const RESET: usize = frame::HEAD + 4;
/// What a PING of ours says.
const PING: [u8; 8] = *b"weir-end";

/// A stream that the peer has begun with a request.
pub(crate) struct Begun {
    pub(super) id: u32,
    /// The request's head; `None`: it is too long.
    pub(super) head: Option<request::Parts>,
    /// It has no body.
    pub(super) ended: bool,
}

/// Takes the frames of a connection in their order.
pub(super) struct Receiver {
    role: Role,
    /// Octets of a header list that are read, at most.
    list: usize,
    /// Whether the streams that the peer begins are tunnels, and not other requests.
    tunnels: bool,
    decoder: Decoder,
    /// A header block of which more must come.
    block: Option<Block>,
    /// Streams begun that no one has taken yet.
    fresh: Vec<Begun>,
    /// Bytes of answers to the peer's own frames among what is to be written.
    answers: usize,
    ending: Ending,
}

/// How far a shutdown of ours has come: what the peer began before it heard of it is still served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// The peer was told, but may have begun streams before it heard.
    Told,
    /// Any further stream is not ours.
    Agreed,
}

struct Block {
    stream: u32,
    last: bool,
    bytes: BytesMut,
    pieces: usize,
}

impl Receiver {
    pub(super) fn new(role: Role, list: usize, tunnels: bool) -> Self {
        Self {
            role,
            list,
            tunnels,
            decoder: Decoder::new(),
            block: None,
            fresh: Vec::new(),
            answers: 0,
            ending: Ending::No,
        }
    }

    /// Tells the peer that no more streams are taken.
    pub(super) fn shut(&mut self, state: &mut State) {
        if self.ending == Ending::No {
            self.ending = Ending::Told;
            frame::put_goaway(&mut state.out, 0x7fff_ffff, Reason::NO_ERROR);
            frame::put_ping(&mut state.out, 0, PING);
            state.wake_driver();
        }
    }

    /// Takes in that what there was to be written is on its way.
    pub(super) fn written(&mut self) {
        self.answers = 0;
    }

    /// The streams that the peer has begun.
    pub(super) fn begun(&mut self) -> impl Iterator<Item = Begun> {
        self.fresh.drain(..)
    }

    pub(super) fn take(&mut self, state: &mut State, frame: Frame) -> Result<(), Error> {
        let of_block = frame.kind == frame::CONTINUATION
            && self
                .block
                .as_ref()
                .is_some_and(|block| block.stream == frame.stream);
        if !of_block && (self.block.is_some() || frame.kind == frame::CONTINUATION) {
            return Err(protocol(
                "a header block is interrupted, or goes on that has not begun",
            ));
        }
        let whole = matches!(frame.kind, frame::SETTINGS | frame::PING | frame::GOAWAY);
        let of_stream = matches!(
            frame.kind,
            frame::DATA | frame::HEADERS | frame::RST_STREAM | frame::CONTINUATION
        );
        if whole && frame.stream != 0 || of_stream && frame.stream == 0 {
            return Err(protocol("a frame is on the wrong stream"));
        }
        match frame.kind {
            frame::DATA => state.take_data(frame),
            frame::HEADERS | frame::CONTINUATION => self.take_headers(state, frame),
            frame::RST_STREAM => state.take_reset(&frame),
            frame::WINDOW_UPDATE => state.take_window(&frame),
            frame::SETTINGS => self.take_settings(state, &frame),
            frame::PING => self.take_ping(state, &frame),
            frame::GOAWAY => self.take_goaway(state, &frame),
            frame::PUSH_PROMISE => Err(protocol("it pushes, which it was told not to")),
            _ => Ok(()),
        }
    }

    /// Takes a part of a header block, and what it says once it is whole.
    fn take_headers(&mut self, state: &mut State, mut frame: Frame) -> Result<(), Error> {
        if frame.kind == frame::HEADERS {
            frame.strip()?;
        }
        let whole = frame.has(frame::END_HEADERS);
        let block = match self.block.take() {
            None if whole => (frame.stream, frame.has(frame::END_STREAM), frame.payload),
            None => {
                let last = frame.has(frame::END_STREAM);
                self.block = Some(Block::new(frame.stream, last, frame.payload));
                return Ok(());
            }
            Some(mut block) => {
                block.add(&frame.payload, self.list)?;
                if !whole {
                    self.block = Some(block);
                    return Ok(());
                }
                (block.stream, block.last, block.bytes.freeze())
            }
        };
        let (id, last, bytes) = block;
        let mut fields = Fields::default();
        let limit = self.list;
        let outcome = self
            .decoder
            .decode(bytes, &mut |header| fields.add(header, limit));
        match outcome? {
            Outcome::Good => {}
            Outcome::Malformed(fault) => fields.spoil(fault),
        }
        self.take_fields(state, id, fields, last)
    }

    fn take_fields(&mut self, state: &mut State, id: u32, fields: Fields, last: bool) -> Result<(), Error> {
        let Some(stream) = state.streams.get(&id) else {
            return match self.role {
                Role::Server if id > state.newest => self.begin(state, id, fields, last),
                // One that was given up.
                _ => state.not_idle(id),
            };
        };
        if stream.received {
            state.reset(
                id,
                Error::Protocol(Reason::STREAM_CLOSED, "its message was at its end"),
            );
            return Ok(());
        }
        let taken = if fields.is_longer(self.list) {
            Err("its header list is too long")
        } else if stream.begun {
            state.take_trailers(id, fields, last)
        } else {
            state.take_response(id, fields, last)
        };
        if let Err(fault) = taken {
            state.reset(id, Error::Malformed(fault));
        }
        Ok(())
    }

    /// Begins a stream of the peer's.
    fn begin(&mut self, state: &mut State, id: u32, fields: Fields, ended: bool) -> Result<(), Error> {
        if id.is_multiple_of(2) {
            return Err(protocol("a client begins a stream of an even number"));
        }
        state.newest = id;
        if self.ending == Ending::Agreed {
            return Ok(());
        }
        if state.streams.len() >= limits::CONCURRENT_STREAMS as usize {
            frame::put_reset(&mut state.out, id, Reason::REFUSED_STREAM);
            return self.answered(RESET);
        }
        let Ok((head, due)) = self.request_of(fields, ended) else {
            frame::put_reset(&mut state.out, id, Reason::PROTOCOL_ERROR);
            return self.answered(RESET);
        };
        let stream = state.open(id);
        stream.begun = true;
        stream.received = ended;
        stream.reading = !ended;
        stream.due = due;
        self.fresh.push(Begun { id, head, ended });
        Ok(())
    }

    /// The head of a request, `None` when it is too long, and the octets that must follow by its Content-Length.
    ///
    /// # Errors
    /// When it is malformed, or none of those that are taken here.
    fn request_of(
        &self,
        fields: Fields,
        ended: bool,
    ) -> Result<(Option<request::Parts>, Option<u64>), &'static str> {
        if fields.is_longer(self.list) {
            return Ok((None, None));
        }
        let head = fields.into_request()?;
        match (head.method == Method::CONNECT, self.tunnels) {
            (true, true) => return Ok((Some(head), None)),
            (true, false) => return Err("a CONNECT is not taken here"),
            (false, true) => return Err("nothing but a CONNECT is taken here"),
            (false, false) => {}
        }
        match content_length(&head.headers)? {
            Some(1..) if ended => Err("it lacks its body"),
            due => Ok((Some(head), due)),
        }
    }

    fn take_settings(&mut self, state: &mut State, frame: &Frame) -> Result<(), Error> {
        if frame.has(frame::ACK) {
            return match frame.payload.is_empty() {
                true => Ok(()),
                false => Err(frame::wrong_size()),
            };
        }
        for setting in frame.settings()? {
            match setting {
                Setting::HeaderTableSize(octets) => state.encoder.set_limit(octets as usize),
                Setting::MaxConcurrentStreams(streams) => state.most_streams = streams,
                Setting::InitialWindowSize(octets) => state.resize(i64::from(octets))?,
                // No frame of ours is longer than any may be, nor is a peer ever pushed to.
                Setting::EnablePush(_) | Setting::MaxFrameSize(_) | Setting::MaxHeaderListSize(_) => {}
            }
        }
        frame::put_settings_ack(&mut state.out);
        self.answered(frame::HEAD)
    }

    fn take_ping(&mut self, state: &mut State, frame: &Frame) -> Result<(), Error> {
        let payload = frame
            .payload
            .as_ref()
            .try_into()
            .map_err(|_| frame::wrong_size())?;
        if !frame.has(frame::ACK) {
            frame::put_ping(&mut state.out, frame::ACK, payload);
            return self.answered(frame::HEAD + PING.len());
        }
        if payload == window::PING {
            state.take_round_trip();
        }
        if payload == PING && self.ending == Ending::Told {
            self.ending = Ending::Agreed;
            state.going = true;
            let newest = state.newest;
            frame::put_goaway(&mut state.out, newest, Reason::NO_ERROR);
        }
        Ok(())
    }

    fn take_goaway(&mut self, state: &mut State, frame: &Frame) -> Result<(), Error> {
        let (last, reason) = frame::goaway(&frame.payload)?;
        if self.role == Role::Server {
            return Ok(());
        }
        state.going = true;
        let error = match reason {
            Reason::NO_ERROR => Error::Reset(Reason::REFUSED_STREAM),
            reason => Error::GoAway(reason),
        };
        for (_, stream) in state.streams.iter_mut().filter(|(id, _)| **id > last) {
            stream.fail(error.clone());
        }
        Ok(())
    }

    /// Counts an answer that the peer caused.
    fn answered(&mut self, octets: usize) -> Result<(), Error> {
        self.answers += octets;
        match self.answers > ANSWERS {
            true => Err(Error::Protocol(
                Reason::ENHANCE_YOUR_CALM,
                "it asks and does not listen",
            )),
            false => Ok(()),
        }
    }
}

impl Block {
    fn new(stream: u32, last: bool, first: Bytes) -> Self {
        Self {
            stream,
            last,
            bytes: first.into(),
            pieces: 0,
        }
    }

    fn add(&mut self, piece: &[u8], limit: usize) -> Result<(), Error> {
        self.pieces += 1;
        self.bytes.extend_from_slice(piece);
        if self.bytes.len() > 2 * limit || self.pieces > PIECES + 2 * limit / LARGEST {
            return Err(Error::Protocol(
                Reason::ENHANCE_YOUR_CALM,
                "a header block is too long",
            ));
        }
        Ok(())
    }
}
