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

use super::{Connection, Error, framing::Framing, receiving::Receiving, sending::Sending};
use crate::{
    http::BodyError,
    net::{Io, Replay},
};

/// A connection that now speaks another protocol, with what was read of that already.
pub type Switched<T = Io> = Replay<T>;

/// The body of a response, read off its connection by whoever polls it.
#[derive(Debug)]
pub struct Incoming<T = Io> {
    source: Source<T>,
    read: BytesMut,
    receiving: Receiving,
    reusable: bool,
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
    pub(super) fn beside<B>(io: T, mut request: Sending<B>) -> Self
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
    {
        let (read, mut write) = split(io);
        let writing = tokio::spawn(async move {
            // One that breaks off must not be taken for one that is complete.
            if poll_fn(|cx| request.poll(cx, &mut write)).await.is_err() {
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
            receiving: Receiving::new(framing),
            reusable,
        };
        if framing == Framing::Empty {
            incoming.end();
        }
        incoming
    }

    /// Once the body was read: its connection, if that may be used again.
    pub fn take_connection(&mut self) -> Option<Box<Connection<T>>> {
        if !self.receiving.is_complete() {
            return None;
        }
        match std::mem::replace(&mut self.source, Source::Nowhere) {
            Source::Whole(connection) => Some(connection),
            Source::Half(..) | Source::Nowhere => None,
        }
    }

    /// The connection, where the endpoint agreed to another protocol on it.
    pub fn take_switched(&mut self) -> Option<Switched<T>> {
        if !self.receiving.is_switched() {
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
        let incoming = &mut *self;
        let polled = incoming
            .receiving
            .poll(cx, &mut incoming.source, &mut incoming.read);
        let polled = ready!(polled);
        match polled {
            Ok(_) if incoming.receiving.is_complete() => incoming.end(),
            Ok(_) => {}
            Err(_) => incoming.source = Source::Nowhere,
        }
        Poll::Ready(polled.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.receiving.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.receiving.size_hint()
    }
}
