//! A message's body as it is read off its connection.

use std::{
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::{
    Error,
    chunks::{Decoder, Part},
    framing::Framing,
};

/// Room for the first read; it grows as long as reads fill it.
const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 128 * 1024;

/// How far the body is read.
#[derive(Debug)]
pub(super) struct Receiving {
    rest: Rest,
    room: usize,
}

/// What is still to come.
#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunks(Decoder),
    UntilClose,
    Switched,
    Nothing,
    /// It broke off.
    Lost,
}

impl Receiving {
    pub(super) fn new(framing: Framing) -> Self {
        Self {
            rest: match framing {
                Framing::Empty => Rest::Nothing,
                Framing::Length(length) => Rest::Length(length),
                Framing::Chunked => Rest::Chunks(Decoder::default()),
                Framing::UntilClose => Rest::UntilClose,
                Framing::Switched => Rest::Switched,
            },
            room: FIRST_READ,
        }
    }

    /// Whether it came to its end.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.rest, Rest::Nothing)
    }

    /// Whether nothing more comes of it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.rest, Rest::Nothing | Rest::Switched | Rest::Lost)
    }

    /// Whether it is no body: what follows is another protocol.
    pub(super) fn is_switched(&self) -> bool {
        matches!(self.rest, Rest::Switched)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.rest {
            Rest::Length(left) => SizeHint::with_exact(left),
            Rest::Nothing | Rest::Switched | Rest::Lost => SizeHint::with_exact(0),
            Rest::Chunks(_) | Rest::UntilClose => SizeHint::default(),
        }
    }

    /// The next frame, of the bytes read already and then of those that `io` brings; `None`: it is over.
    ///
    /// # Errors
    /// When it breaks off, or is not what its head says. Nothing more comes then.
    pub(super) fn poll<T: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        read: &mut BytesMut,
    ) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        let polled = ready!(self.poll_frame(cx, io, read));
        if polled.is_err() {
            self.rest = Rest::Lost;
        }
        Poll::Ready(polled)
    }

    fn poll_frame<T: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        read: &mut BytesMut,
    ) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        loop {
            if let Some(frame) = self.at_hand(read)? {
                return Poll::Ready(Ok(Some(frame)));
            }
            if self.is_over() {
                return Poll::Ready(Ok(None));
            }
            if read.capacity() - read.len() < self.room / 2 {
                read.reserve(self.room);
            }
            match ready!(pin!(io.read_buf(read)).poll(cx))? {
                0 if matches!(self.rest, Rest::UntilClose) => self.rest = Rest::Nothing,
                0 => return Poll::Ready(Err(Error::Closed)),
                length if length >= self.room => self.room = (self.room * 2).min(LARGEST_READ),
                _ => {}
            }
        }
    }

    /// The next frame of what was read.
    fn at_hand(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Error> {
        match &mut self.rest {
            Rest::Nothing | Rest::Switched | Rest::Lost => Ok(None),
            Rest::Length(_) | Rest::UntilClose if read.is_empty() => Ok(None),
            Rest::UntilClose => Ok(Some(Frame::data(read.split().freeze()))),
            Rest::Length(left) => {
                let length = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
                let data = read.split_to(length).freeze();
                *left -= length as u64;
                if *left == 0 {
                    self.rest = Rest::Nothing;
                }
                Ok(Some(Frame::data(data)))
            }
            Rest::Chunks(decoder) => match decoder.decode(read)? {
                None => Ok(None),
                Some(Part::Data(data)) => Ok(Some(Frame::data(data))),
                Some(Part::End(trailers)) => {
                    self.rest = Rest::Nothing;
                    Ok(trailers.map(Frame::trailers))
                }
            },
        }
    }
}

/// Reads what there is of a head, into no more memory than that takes: a head is held as long as its fields are. 0 is
/// the end.
pub(super) fn poll_head<T: AsyncRead + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    read: &mut BytesMut,
) -> Poll<std::io::Result<usize>> {
    let mut room = [const { MaybeUninit::uninit() }; FIRST_READ];
    let mut buffer = ReadBuf::uninit(&mut room);
    ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
    read.extend_from_slice(buffer.filled());
    Poll::Ready(Ok(buffer.filled().len()))
}
