//! A message on its way out: its head, and its body as that comes.

use std::{
    fmt::Write as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderName, Request, Response, header::TRAILER};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::{
    Error,
    framing::Outgoing,
    head::{self, After},
    queue::{COPIED, Queue},
};
use crate::http::BodyError;

/// Bytes of a usual header field.
const FIELD: usize = 48;
const LAST_CHUNK: &[u8] = b"0\r\n";
const LINE_END: &[u8] = b"\r\n";

/// A message being written.
pub(super) struct Sending<B> {
    body: B,
    framing: Outgoing,
    /// Trailers that the head announced: no others are sent (RFC 9110 §6.6.2).
    announced: Vec<HeaderName>,
    out: Queue,
    ended: bool,
    /// Why it ends before its time. What came until then is written first, as far as the peer takes it.
    broken: Option<Error>,
    flushed: bool,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Sending<B> {
    /// # Errors
    /// When the head contradicts itself or the body.
    pub(super) fn request(head: &Request<()>, body: B) -> Result<Self, Error> {
        let framing = Outgoing::of_request(head, &body)?;
        let mut out = room(head.headers(), framing);
        head::write_request(head, framing, out.short());
        let announced = match framing {
            Outgoing::Chunked => announced(head.headers()),
            Outgoing::Nothing | Outgoing::Length(_) | Outgoing::UntilClose => Vec::new(),
        };
        Ok(Self::new(body, framing, announced, out))
    }

    /// Behind `ahead`, which is on its way out already; `trailers`: the client reads them.
    pub(super) fn response(
        response: Response<B>,
        framing: Outgoing,
        after: After,
        trailers: bool,
        ahead: &[u8],
    ) -> Self {
        let mut out = room(response.headers(), framing);
        out.short().put_slice(ahead);
        let (head, body) = response.into_parts();
        head::write_response(&head, framing, after, out.short());
        let announced = match framing {
            Outgoing::Chunked if trailers => announced(&head.headers),
            _ => Vec::new(),
        };
        Self::new(body, framing, announced, out)
    }

    fn new(body: B, framing: Outgoing, announced: Vec<HeaderName>, out: Queue) -> Self {
        Self {
            body,
            framing,
            announced,
            out,
            ended: matches!(framing, Outgoing::Nothing | Outgoing::Length(0)),
            broken: None,
            flushed: false,
        }
    }

    /// Writes what there is. Ready when the whole message is out.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<Result<(), Error>> {
        loop {
            let filled = self.poll_fill(cx);
            if self.out.is_empty() {
                if !self.flushed {
                    ready!(Pin::new(&mut *io).poll_flush(cx))?;
                    self.flushed = true;
                }
                return filled.map(|()| self.broken.take().map_or(Ok(()), Err));
            }
            self.flushed = false;
            let written = self.out.poll_write(cx, io);
            if written.is_pending()
                && let Some(error) = self.broken.take()
            {
                return Poll::Ready(Err(error));
            }
            ready!(written)?;
        }
    }

    /// Takes of the body what is at hand. Ready when that is enough for now.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended && !self.out.is_full() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            if let Err(error) = self.take(frame) {
                self.ended = true;
                self.broken = Some(error);
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, frame: Option<Result<Frame<Bytes>, BodyError>>) -> Result<(), Error> {
        match frame.transpose().map_err(Error::Body)? {
            None => self.end(None),
            Some(frame) => match frame.into_data() {
                Ok(data) => self.put(data),
                Err(frame) => self.end(frame.into_trailers().ok()),
            },
        }
    }

    fn put(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.framing {
            Outgoing::Length(left) => {
                let length = data.len() as u64;
                *left = left.checked_sub(length).ok_or(Error::Length("longer"))?;
                self.ended = *left == 0;
            }
            Outgoing::Chunked => {
                if !data.is_empty() {
                    // Writing to memory does not fail.
                    let _ = write!(self.out.short(), "{:x}\r\n", data.len());
                    self.out.push(data);
                    self.out.short().put_slice(LINE_END);
                }
                return match self.body.is_end_stream() {
                    true => self.end(None),
                    false => Ok(()),
                };
            }
            Outgoing::UntilClose | Outgoing::Nothing => {}
        }
        self.out.push(data);
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Error> {
        self.ended = true;
        match self.framing {
            Outgoing::Length(0) | Outgoing::UntilClose | Outgoing::Nothing => return Ok(()),
            Outgoing::Length(_) => return Err(Error::Length("shorter")),
            Outgoing::Chunked => {}
        }
        let out = self.out.short();
        out.put_slice(LAST_CHUNK);
        for (name, value) in trailers.iter().flat_map(HeaderMap::iter) {
            if self.announced.contains(name) {
                head::write_field(name, value, out);
            }
        }
        out.put_slice(LINE_END);
        Ok(())
    }
}

/// Enough for most heads, and for a body that is copied behind.
fn room(headers: &HeaderMap, framing: Outgoing) -> Queue {
    let body = match framing {
        Outgoing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Outgoing::Nothing | Outgoing::Chunked | Outgoing::UntilClose => 0,
    };
    let body = if body <= COPIED { body } else { 0 };
    Queue::with_capacity(128 + FIELD * headers.len() + body)
}

/// The fields that the head's `Trailer` names.
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(TRAILER).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect()
}
