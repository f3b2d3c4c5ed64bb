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

/// Room for the first read of a body of unknown length; it grows as long as reads fill it.
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
            let room = self.room();
            if read.capacity() - read.len() < room / 2 {
                read.reserve(room);
            }
            let Poll::Ready(came) = pin!(io.read_buf(read)).poll(cx) else {
                if read.is_empty() {
                    // Whoever waits for a peer holds no buffer.
                    *read = BytesMut::new();
                }
                return Poll::Pending;
            };
            match came? {
                0 if matches!(self.rest, Rest::UntilClose) => self.rest = Rest::Nothing,
                0 => return Poll::Ready(Err(Error::Closed)),
                length if length >= self.room => self.room = (self.room * 2).min(LARGEST_READ),
                _ => {}
            }
        }
    }

    /// Room for the next read. A read that leaves some of it has shown that there is no more for now; one that fills it
    /// has the next ask the kernel in vain.
    fn room(&self) -> usize {
        match self.rest {
            Rest::Length(left) => usize::try_from(left.saturating_add(1))
                .unwrap_or(LARGEST_READ)
                .min(LARGEST_READ),
            _ => self.room,
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// The next frame's length, if there is one now.
    fn poll(body: &mut Receiving, io: &mut (impl AsyncRead + Unpin), read: &mut BytesMut) -> Poll<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        let frame = body.poll(&mut cx, io, read);
        frame.map(|frame| frame.unwrap().unwrap().into_data().unwrap().len())
    }

    #[tokio::test]
    async fn a_body_of_known_length_comes_in_few_reads() {
        let (mut near, mut far) = duplex(LARGEST_READ);
        let length = LARGEST_READ / 2;
        let mut body = Receiving::new(Framing::Length(length as u64));
        near.write_all(&vec![0; length]).await.unwrap();
        let mut read = BytesMut::new();
        assert_eq!(poll(&mut body, &mut far, &mut read), Poll::Ready(length));
        assert!(body.is_complete());
    }

    /// However much was promised.
    #[tokio::test]
    async fn a_body_that_is_waited_for_takes_no_memory() {
        for framing in [Framing::Length(u64::MAX), Framing::Chunked, Framing::UntilClose] {
            let (_near, mut far) = duplex(1);
            let mut read = BytesMut::new();
            assert!(poll(&mut Receiving::new(framing), &mut far, &mut read).is_pending());
            assert_eq!(read.capacity(), 0, "{framing:?}");
        }
    }
}
