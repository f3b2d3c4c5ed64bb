//! What waits to be written, in its order. Short pieces are copied behind each other, long ones are not; all go out
//! in as few writes as they can.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// A piece up to so many bytes is copied.
pub(super) const COPIED: usize = 4 * 1024;
/// Bytes that wait before more is too much: four full TLS records.
const FULL: usize = 64 * 1024;
/// Pieces that are written at once. A chunk takes two, and what ends it one more.
const SLICES: usize = 16;

pub(super) struct Queue {
    pieces: VecDeque<Bytes>,
    /// Bytes of `pieces`.
    long: usize,
    /// What was copied behind them.
    last: BytesMut,
}

impl Queue {
    /// Empty, with room for so many bytes that are copied.
    pub(super) fn with_capacity(octets: usize) -> Self {
        Self {
            pieces: VecDeque::new(),
            long: 0,
            last: BytesMut::with_capacity(octets),
        }
    }

    /// Where short pieces are written to.
    pub(super) fn short(&mut self) -> &mut BytesMut {
        &mut self.last
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.len() <= COPIED {
            self.last.put_slice(&piece);
            return;
        }
        if !self.last.is_empty() {
            let short = self.last.split().freeze();
            self.append(short);
        }
        self.append(piece);
    }

    fn append(&mut self, piece: Bytes) {
        self.long += piece.len();
        self.pieces.push_back(piece);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.last.is_empty()
    }

    /// Whether so much waits that it had better be written before more comes.
    pub(super) fn is_full(&self) -> bool {
        self.long + self.last.len() >= FULL || self.pieces.len() >= SLICES - 2
    }

    /// Writes some of it.
    ///
    /// # Errors
    /// When the stream fails, or takes nothing.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<io::Result<()>> {
        let written = match self.pieces.is_empty() {
            true => ready!(Pin::new(io).poll_write(cx, &self.last))?,
            false => {
                let mut slices = [IoSlice::new(b""); SLICES];
                let waiting = self.pieces.iter().map(Bytes::as_ref).chain([self.last.as_ref()]);
                let mut count = 0;
                for (slice, piece) in slices.iter_mut().zip(waiting) {
                    *slice = IoSlice::new(piece);
                    count += 1;
                }
                ready!(Pin::new(io).poll_write_vectored(cx, &slices[..count]))?
            }
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(piece) = self.pieces.front_mut()
            && written > 0
        {
            let of_piece = written.min(piece.len());
            piece.advance(of_piece);
            self.long -= of_piece;
            written -= of_piece;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        self.last.advance(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at a time, and counts how often it is written to.
    struct Sink {
        most: usize,
        written: Vec<u8>,
        writes: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let length = buf.len().min(self.most);
            self.written.extend_from_slice(&buf[..length]);
            self.writes += 1;
            Poll::Ready(Ok(length))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Writes everything of a queue, so many bytes at a time at most.
    fn drain(queue: &mut Queue, most: usize) -> Sink {
        let mut sink = Sink {
            most,
            written: Vec::new(),
            writes: 0,
        };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while !queue.is_empty() {
            assert!(matches!(
                queue.poll_write(&mut cx, &mut sink),
                Poll::Ready(Ok(()))
            ));
        }
        assert_eq!((queue.long, queue.last.len()), (0, 0));
        sink
    }

    fn pieces() -> [Vec<u8>; 6] {
        let lengths = [5, COPIED + 1, COPIED, 1, 3 * COPIED, 2];
        let mut number = 0;
        lengths.map(|length| {
            number += 1;
            vec![number; length]
        })
    }

    #[test]
    fn pieces_are_written_in_their_order() {
        for most in [1, 7, COPIED, usize::MAX] {
            let mut queue = Queue::with_capacity(0);
            for piece in pieces() {
                queue.push(piece.into());
            }
            assert_eq!(
                drain(&mut queue, most).written,
                pieces().concat(),
                "{most} at a time"
            );
        }
    }

    #[test]
    fn what_waits_goes_out_in_one_write() {
        let mut queue = Queue::with_capacity(0);
        for piece in pieces() {
            queue.push(piece.into());
        }
        assert_eq!(drain(&mut queue, usize::MAX).writes, 1);
    }

    #[test]
    fn neither_bytes_nor_pieces_wait_without_end() {
        let mut queue = Queue::with_capacity(0);
        while !queue.is_full() {
            queue.push(Bytes::from_static(&[0; COPIED]));
        }
        assert_eq!(queue.last.len(), FULL);
        let mut queue = Queue::with_capacity(0);
        while !queue.is_full() {
            queue.push(Bytes::from_static(b"1001\r\n"));
            queue.push(Bytes::from_static(&[0; COPIED + 1]));
            queue.push(Bytes::from_static(b"\r\n"));
        }
        assert_eq!(drain(&mut queue, usize::MAX).writes, 1);
    }
}
