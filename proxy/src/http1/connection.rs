//! The end that asks: one connection, for one request after the other.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header::UPGRADE, response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Error, Incoming,
    framing::{Framing, Marks},
    head,
    incoming::Source,
    receiving::poll_head,
    sending::Sending,
};
use crate::{
    http::{BodyError, limits},
    net::Io,
};

/// A connection that no request is under way on.
#[derive(Debug)]
pub struct Connection<T = Io> {
    io: T,
}

impl<T> Connection<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Over a stream of which nothing was read.
    pub fn new(io: T) -> Self {
        Self { io }
    }

    pub(super) fn io(&mut self) -> &mut T {
        &mut self.io
    }

    pub(super) fn into_io(self) -> T {
        self.io
    }

    /// Whether the endpoint has neither closed it nor sent anything that no one asked for.
    pub fn is_reusable(&mut self) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.io).poll_read(&mut cx, &mut byte).is_pending()
    }

    /// Ends it politely, as far as that needs no waiting.
    pub fn close(mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.io).poll_shutdown(&mut cx);
    }

    /// Sends a request, and gives the response as soon as its head is there. What is left of the request's body then
    /// is sent beside it.
    ///
    /// # Errors
    /// When the connection, the request's body or the response breaks off. The connection is closed then.
    pub fn send<B>(
        mut self: Box<Self>,
        head: &Request<()>,
        body: B,
    ) -> impl Future<Output = Result<Response<Incoming<T>>, Error>> + use<T, B>
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
    {
        // Apart, since what waits for it is moved, and holds a request's other ways to be sent too.
        let asking = Asking::new(head, body).map(Box::new);
        async move {
            let mut asking = asking?;
            let mut head = poll_fn(|cx| asking.poll(cx, &mut self.io)).await?;
            let marks = Marks::of(&head.headers);
            let framing = Framing::of_response(&asking.method, &mut head, marks, asking.upgrading)?;
            let Asking {
                sending,
                broken,
                read,
                ..
            } = *asking;
            let reusable = broken.is_none()
                && framing != Framing::UntilClose
                && marks.keep_alive(head.version, &head.headers);
            let source = match sending {
                None => Source::Whole(self),
                Some(_) if framing == Framing::Switched => {
                    return Err(Error::Malformed(
                        "it switches protocols before the request is complete",
                    ));
                }
                Some(sending) => Source::beside(self.io, sending),
            };
            let incoming = Incoming::new(source, read, framing, reusable);
            Ok(Response::from_parts(head, incoming))
        }
    }
}

/// A request until its response's head is there.
struct Asking<B> {
    method: Method,
    upgrading: bool,
    sending: Option<Sending<B>>,
    /// Why the request is not written to its end.
    broken: Option<io::Error>,
    read: BytesMut,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Asking<B> {
    fn new(head: &Request<()>, body: B) -> Result<Self, Error> {
        Ok(Self {
            method: head.method().clone(),
            upgrading: head.headers().contains_key(UPGRADE),
            sending: Some(Sending::request(head, body)?),
            broken: None,
            read: BytesMut::new(),
        })
    }

    fn poll<T>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<Result<response::Parts, Error>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some(sending) = &mut self.sending
            && let Poll::Ready(written) = sending.poll(cx, io)
        {
            self.sending = None;
            match written {
                Ok(()) => {}
                // An endpoint that wants no more of the request may have said why.
                Err(Error::Io(error)) => self.broken = Some(error),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let head = ready!(self.poll_head(cx, io));
        Poll::Ready(head.map_err(|error| match (error, self.broken.take()) {
            (Error::Closed | Error::Io(_), Some(first)) => first.into(),
            (error, _) => error,
        }))
    }

    /// Reads up to the final response's head; those before it (1xx) are dropped.
    fn poll_head<T: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
    ) -> Poll<Result<response::Parts, Error>> {
        let read = &mut self.read;
        loop {
            let before = read.len();
            if ready!(poll_head(io, cx, read))? == 0 {
                return Poll::Ready(Err(Error::Closed));
            }
            // A head ends with a line: it is looked at once for each, however few bytes come at a time.
            let line = read.get(before..).is_some_and(|new| new.contains(&b'\n'));
            if !line && read.len() < limits::RESPONSE_HEADER_BYTES {
                continue;
            }
            while let Some(head) = head::parse_response(read)? {
                if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
