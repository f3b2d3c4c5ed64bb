//! A message on its way out: its head, and its body as that comes.

use std::{
    fmt::Write as _,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Request, Response, header::TRAILER};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::{
    Error,
    framing::Outgoing,
    head::{self, After},
};
use crate::http::BodyError;

/// A piece of the body up to so many bytes is copied behind the head, so that both go out as one.
const COPIED: usize = 4 * 1024;
/// Bytes that wait to be written before more of the body is asked for.
const WAITING: usize = 16 * 1024;
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
    out: BytesMut,
    /// A piece too large to copy, and what ends its chunk.
    piece: Bytes,
    piece_end: &'static [u8],
    ended: bool,
    flushed: bool,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Sending<B> {
    /// # Errors
    /// When the head contradicts itself or the body.
    pub(super) fn request(head: &Request<()>, body: B) -> Result<Self, Error> {
        let framing = Outgoing::of_request(head, &body)?;
        let mut out = room(head.headers(), framing);
        head::write_request(head, framing, &mut out);
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
        out.put_slice(ahead);
        let (head, body) = response.into_parts();
        head::write_response(&head, framing, after, &mut out);
        let announced = match framing {
            Outgoing::Chunked if trailers => announced(&head.headers),
            _ => Vec::new(),
        };
        Self::new(body, framing, announced, out)
    }

    fn new(body: B, framing: Outgoing, announced: Vec<HeaderName>, out: BytesMut) -> Self {
        Self {
            body,
            framing,
            announced,
            out,
            piece: Bytes::new(),
            piece_end: b"",
            ended: matches!(framing, Outgoing::Nothing | Outgoing::Length(0)),
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
            let waits = self.fill(cx)?;
            if self.is_written() {
                if !self.flushed {
                    ready!(Pin::new(&mut *io).poll_flush(cx))?;
                    self.flushed = true;
                }
                return match waits {
                    true => Poll::Pending,
                    false => Poll::Ready(Ok(())),
                };
            }
            self.flushed = false;
            ready!(self.poll_write(cx, io))?;
        }
    }

    /// Takes of the body what is at hand. Says whether there is more to wait for.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        while !self.ended && self.piece.is_empty() && self.out.len() < WAITING {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                return Ok(true);
            };
            match frame.transpose().map_err(Error::Body)? {
                None => self.end(None)?,
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.put(data)?,
                    Err(frame) => self.end(frame.into_trailers().ok())?,
                },
            }
        }
        Ok(!self.ended)
    }

    fn put(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.framing {
            Outgoing::Length(left) => {
                let length = data.len() as u64;
                *left = left.checked_sub(length).ok_or(Error::Length("longer"))?;
                self.ended = *left == 0;
            }
            Outgoing::Chunked if !data.is_empty() => {
                // Writing to memory does not fail.
                let _ = write!(self.out, "{:x}\r\n", data.len());
                self.piece_end = LINE_END;
            }
            Outgoing::Chunked | Outgoing::UntilClose | Outgoing::Nothing => {}
        }
        if data.len() <= COPIED {
            self.out.put_slice(&data);
            self.out.put_slice(std::mem::take(&mut self.piece_end));
        } else {
            self.piece = data;
        }
        if self.framing == Outgoing::Chunked && self.piece.is_empty() && self.body.is_end_stream() {
            self.end(None)?;
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Error> {
        self.ended = true;
        match self.framing {
            Outgoing::Length(0) | Outgoing::UntilClose | Outgoing::Nothing => return Ok(()),
            Outgoing::Length(_) => return Err(Error::Length("shorter")),
            Outgoing::Chunked => {}
        }
        self.out.put_slice(LAST_CHUNK);
        for (name, value) in trailers.iter().flat_map(HeaderMap::iter) {
            if self.announced.contains(name) {
                head::write_field(name, value, &mut self.out);
            }
        }
        self.out.put_slice(LINE_END);
        Ok(())
    }

    fn is_written(&self) -> bool {
        self.out.is_empty() && self.piece.is_empty() && self.piece_end.is_empty()
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<io::Result<()>> {
        let slices = [
            IoSlice::new(&self.out),
            IoSlice::new(&self.piece),
            IoSlice::new(self.piece_end),
        ];
        let mut written = match self.piece.is_empty() && self.piece_end.is_empty() {
            true => ready!(Pin::new(io).poll_write(cx, &self.out))?,
            false => ready!(Pin::new(io).poll_write_vectored(cx, &slices))?,
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_out = written.min(self.out.len());
        self.out.advance(of_out);
        written -= of_out;
        let of_piece = written.min(self.piece.len());
        self.piece.advance(of_piece);
        written -= of_piece;
        self.piece_end = self.piece_end.get(written..).unwrap_or_default();
        Poll::Ready(Ok(()))
    }
}

/// Enough for most heads, and for a body that is copied behind.
fn room(headers: &HeaderMap, framing: Outgoing) -> BytesMut {
    let body = match framing {
        Outgoing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Outgoing::Nothing | Outgoing::Chunked | Outgoing::UntilClose => 0,
    };
    let body = if body <= COPIED { body } else { 0 };
    BytesMut::with_capacity(128 + FIELD * headers.len() + body)
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
