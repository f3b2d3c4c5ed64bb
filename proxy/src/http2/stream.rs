//! One stream, as its connection keeps it.

use std::{collections::VecDeque, task::Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, response};

use super::{Error, window::Window};

/// A piece of a body up to so many bytes is copied behind others that wait.
const SHORT: usize = 4 * 1024;

/// What is known of a stream as long as someone reads or writes it.
#[derive(Debug)]
pub(super) struct Stream {
    /// Of a response that no one has taken yet.
    pub(super) head: Option<Box<response::Parts>>,
    pub(super) data: Pieces,
    pub(super) trailers: Option<Box<HeaderMap>>,
    /// The head of the message came.
    pub(super) begun: bool,
    /// The message came to its end.
    pub(super) received: bool,
    /// It was all in its head.
    pub(super) bodiless: bool,
    /// Someone reads it.
    pub(super) reading: bool,
    /// Someone writes to it.
    pub(super) writing: bool,
    /// Why neither has to go on.
    pub(super) fault: Option<Error>,
    /// Octets that must still come, by the message's Content-Length.
    pub(super) due: Option<u64>,
    /// What the peer may send.
    pub(super) window: Window,
    /// Octets that may be sent.
    pub(super) send_window: i64,
    /// Octets that wait for the connection.
    pub(super) wanted: usize,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Stream {
    /// One that is written to, and read.
    pub(super) fn new(send_window: i64) -> Self {
        Self {
            head: None,
            data: Pieces::default(),
            trailers: None,
            begun: false,
            received: false,
            bodiless: false,
            reading: true,
            writing: true,
            fault: None,
            due: None,
            window: Window::of_stream(),
            send_window,
            wanted: 0,
            reader: None,
            writer: None,
        }
    }

    /// Whether all of its message was read.
    pub(super) fn is_read(&self) -> bool {
        self.received && self.data.is_empty() && self.trailers.is_none()
    }

    /// Takes in that so many octets of the message's body came; `last`: no more do.
    ///
    /// # Errors
    /// When its Content-Length said otherwise.
    pub(super) fn count(&mut self, octets: usize, last: bool) -> Result<(), &'static str> {
        let Some(due) = &mut self.due else {
            return Ok(());
        };
        let octets = u64::try_from(octets).unwrap_or(u64::MAX);
        *due = due
            .checked_sub(octets)
            .ok_or("its body is longer than its Content-Length")?;
        match last && *due > 0 {
            true => Err("its body is shorter than its Content-Length"),
            false => Ok(()),
        }
    }

    /// Has nothing more pass.
    pub(super) fn fail(&mut self, error: Error) {
        self.fault.get_or_insert(error);
        self.wake_reader();
        self.wake_writer();
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

/// Pieces of a body that wait to be read. Most bodies are one piece. Behind it short ones are joined: each would keep
/// all that was read with it in memory as long as no one reads it.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
    /// Short pieces behind the rest.
    short: BytesMut,
}

impl Pieces {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if self.first.is_none() {
            self.first = Some(piece);
        } else if piece.len() <= SHORT {
            self.short.extend_from_slice(&piece);
        } else {
            if !self.short.is_empty() {
                self.rest.push_back(self.short.split().freeze());
            }
            self.rest.push_back(piece);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let mut next = self.rest.pop_front();
        if next.is_none() && !self.short.is_empty() {
            next = Some(std::mem::take(&mut self.short).freeze());
        }
        std::mem::replace(&mut self.first, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_their_order() {
        let mut pieces = Pieces::default();
        let long = Bytes::from(vec![b'l'; SHORT + 1]);
        let all = [&b"a"[..], b"b", b"c", &long, b"d", b"e", &long, &long, b"f"];
        for piece in all {
            pieces.push(Bytes::copy_from_slice(piece));
        }
        let mut popped = Vec::new();
        while let Some(piece) = pieces.pop() {
            popped.push(piece);
        }
        assert_eq!(popped, [&b"a"[..], b"bc", &long, b"de", &long, &long, b"f"]);
        pieces.push(Bytes::from_static(b"g"));
        assert_eq!(pieces.pop().unwrap(), "g");
        assert!(pieces.is_empty());
    }

    /// What was read with a short piece is let go of.
    #[test]
    fn short_pieces_that_wait_hold_no_more_than_themselves() {
        let mut pieces = Pieces::default();
        pieces.push(Bytes::from_static(b"first"));
        let read = Bytes::from(vec![0; 64 * 1024]);
        pieces.push(read.slice(..10));
        assert!(read.is_unique());
    }
}
