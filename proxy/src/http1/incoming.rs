//! A response's body.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, split},
    task::AbortHandle,
};

use super::{
    Connection, Error,
    chunks::{Decoder, Part},
    connection::poll_read,
    framing::Framing,
    upload::Upload,
};
use crate::{
    http::BodyError,
    net::{Io, Replay},
};

/// Room for the first read; it grows as long as reads fill it.
pub(super) const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 128 * 1024;

/// A connection that now speaks another protocol, with what was read of that already.
pub type Switched<T = Io> = Replay<T>;

/// The body of a response, read off its connection by whoever polls it.
#[derive(Debug)]
pub struct Incoming<T = Io> {
    source: Source<T>,
    read: BytesMut,
    rest: Rest,
    room: usize,
    reusable: bool,
}

/// What is still to come.
#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunks(Decoder),
    UntilClose,
    Switched,
    Nothing,
}

/// Where it comes from.
#[derive(Debug)]
pub(super) enum Source<T> {
    Whole(Box<Connection<T>>),
    /// The request is still being written by a task of its own.
    Half(Box<ReadHalf<T>>, Writing),
    Nowhere,
}

/// Ends the writing when the response is given up before its end.
#[derive(Debug)]
pub(super) struct Writing(Option<AbortHandle>);

impl Writing {
    /// Lets it come to its own end.
    fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(writing) = &self.0 {
            writing.abort();
        }
    }
}

impl<T> Source<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Writes the rest of a request beside its response. An endpoint may answer early and go on to read; neither
    /// waits for the other then.
    pub(super) fn beside<B>(io: T, mut upload: Upload<B>) -> Self
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
    {
        let (read, mut write) = split(io);
        let writing = tokio::spawn(async move {
            // One that breaks off must not be taken for one that is complete.
            if poll_fn(|cx| upload.poll(cx, &mut write)).await.is_err() {
                let _ = write.shutdown().await;
            }
        });
        Self::Half(Box::new(read), Writing(Some(writing.abort_handle())))
    }
}

impl<T> AsyncRead for Source<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Whole(connection) => Pin::new(connection.io()).poll_read(cx, buf),
            Self::Half(read, _) => Pin::new(&mut **read).poll_read(cx, buf),
            Self::Nowhere => Poll::Ready(Ok(())),
        }
    }
}

impl<T> Incoming<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pub(super) fn new(source: Source<T>, read: BytesMut, framing: Framing, reusable: bool) -> Self {
        let mut incoming = Self {
            source,
            read,
            rest: match framing {
                Framing::Empty => Rest::Nothing,
                Framing::Length(length) => Rest::Length(length),
                Framing::Chunked => Rest::Chunks(Decoder::default()),
                Framing::UntilClose => Rest::UntilClose,
                Framing::Switched => Rest::Switched,
            },
            room: FIRST_READ,
            reusable,
        };
        if framing == Framing::Empty {
            incoming.end();
        }
        incoming
    }

    /// Once the body was read: its connection, if that may be used again.
    pub fn take_connection(&mut self) -> Option<Box<Connection<T>>> {
        if !matches!(self.rest, Rest::Nothing) {
            return None;
        }
        match std::mem::replace(&mut self.source, Source::Nowhere) {
            Source::Whole(connection) => Some(connection),
            Source::Half(..) | Source::Nowhere => None,
        }
    }

    /// The connection, where the endpoint agreed to another protocol on it.
    pub fn take_switched(&mut self) -> Option<Switched<T>> {
        if !matches!(self.rest, Rest::Switched) {
            return None;
        }
        match std::mem::replace(&mut self.source, Source::Nowhere) {
            Source::Whole(connection) => Some(Replay::after(
                std::mem::take(&mut self.read),
                connection.into_io(),
            )),
            Source::Half(..) | Source::Nowhere => None,
        }
    }

    /// Nothing more comes. Bytes beyond the end would be taken for the next response.
    fn end(&mut self) {
        self.rest = Rest::Nothing;
        let reusable = self.reusable && self.read.is_empty();
        self.source = match std::mem::replace(&mut self.source, Source::Nowhere) {
            Source::Whole(connection) if reusable => Source::Whole(connection),
            Source::Half(_, writing) => {
                writing.detach();
                Source::Nowhere
            }
            Source::Whole(_) | Source::Nowhere => Source::Nowhere,
        };
        self.read = BytesMut::new();
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        loop {
            if let Some(frame) = self.at_hand()? {
                return Poll::Ready(Ok(Some(frame)));
            }
            if matches!(self.rest, Rest::Nothing | Rest::Switched) {
                return Poll::Ready(Ok(None));
            }
            let read = ready!(poll_read(&mut self.source, cx, &mut self.read, self.room))?;
            if read == 0 {
                if !matches!(self.rest, Rest::UntilClose) {
                    return Poll::Ready(Err(Error::Closed));
                }
                self.end();
            } else if read >= self.room {
                self.room = (self.room * 2).min(LARGEST_READ);
            }
        }
    }

    /// The next frame of what was read.
    fn at_hand(&mut self) -> Result<Option<Frame<Bytes>>, Error> {
        match &mut self.rest {
            Rest::Nothing | Rest::Switched => Ok(None),
            Rest::Length(_) | Rest::UntilClose if self.read.is_empty() => Ok(None),
            Rest::UntilClose => Ok(Some(Frame::data(self.read.split().freeze()))),
            Rest::Length(left) => {
                let length = usize::try_from(*left).map_or(self.read.len(), |left| left.min(self.read.len()));
                let data = self.read.split_to(length).freeze();
                *left -= length as u64;
                if *left == 0 {
                    self.end();
                }
                Ok(Some(Frame::data(data)))
            }
            Rest::Chunks(decoder) => match decoder.decode(&mut self.read)? {
                None => Ok(None),
                Some(Part::Data(data)) => Ok(Some(Frame::data(data))),
                Some(Part::End(trailers)) => {
                    self.end();
                    Ok(trailers.map(Frame::trailers))
                }
            },
        }
    }
}

impl<T> Body for Incoming<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = ready!(self.poll_part(cx));
        if polled.is_err() {
            self.rest = Rest::Nothing;
            self.source = Source::Nowhere;
        }
        Poll::Ready(polled.transpose())
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.rest, Rest::Nothing | Rest::Switched)
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest {
            Rest::Length(left) => SizeHint::with_exact(left),
            Rest::Nothing | Rest::Switched => SizeHint::with_exact(0),
            Rest::Chunks(_) | Rest::UntilClose => SizeHint::default(),
        }
    }
}
