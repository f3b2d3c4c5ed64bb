//! What arrives on the streams of a connection.

use h2::Reason;
use http::StatusCode;

use super::{
    Error,
    frame::{self, Frame},
    head::{Fields, content_length},
    state::{LARGEST_WINDOW, State},
    window,
};

impl State {
    /// # Errors
    /// When the stream has not begun.
    pub(super) fn not_idle(&self, id: u32) -> Result<(), Error> {
        match id.is_multiple_of(2) || id > self.newest {
            true => Err(protocol("a frame is on a stream that has not begun")),
            false => Ok(()),
        }
    }

    pub(super) fn take_data(&mut self, mut frame: Frame) -> Result<(), Error> {
        let id = frame.stream;
        let octets = frame.payload.len();
        frame.strip()?;
        self.not_idle(id)?;
        if !self.window.take(octets) {
            return Err(Error::Protocol(
                Reason::FLOW_CONTROL_ERROR,
                "it sends beyond the connection's window",
            ));
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            self.release(id, octets);
            return Ok(());
        };
        let granted = stream.window.take(octets);
        if self.distance.count(id, octets, &mut stream.window) {
            frame::put_ping(&mut self.out, 0, window::PING);
        }
        let fault = if !granted {
            Some(Error::Protocol(
                Reason::FLOW_CONTROL_ERROR,
                "it sends beyond the stream's window",
            ))
        } else if stream.received {
            Some(Error::Protocol(
                Reason::STREAM_CLOSED,
                "its message was at its end",
            ))
        } else if !stream.begun {
            Some(Error::Malformed("it has a body and no head"))
        } else {
            stream
                .count(frame.payload.len(), frame.has(frame::END_STREAM))
                .err()
                .map(Error::Malformed)
        };
        if fault.is_some() || stream.fault.is_some() || !stream.reading {
            self.release(id, octets);
        } else {
            let padding = octets - frame.payload.len();
            if !frame.payload.is_empty() {
                stream.data.push(frame.payload.clone());
                stream.wake_reader();
            }
            if padding > 0 {
                self.release(id, padding);
            }
        }
        if let Some(fault) = fault {
            self.reset(id, fault);
        } else if frame.has(frame::END_STREAM) {
            self.received(id);
        }
        Ok(())
    }

    /// Takes the head of a response, or of one that goes before it (1xx).
    pub(super) fn take_response(&mut self, id: u32, fields: Fields, last: bool) -> Result<(), &'static str> {
        let head = fields.into_response()?;
        if head.status.is_informational() {
            return match last || head.status == StatusCode::SWITCHING_PROTOCOLS {
                true => Err("it ends before its response"),
                false => Ok(()),
            };
        }
        let due = content_length(&head.headers)?;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.begun = true;
            // Without a body the length is that of another response (RFC 9110 §8.6).
            stream.due = due.filter(|_| !last);
            stream.bodiless = last;
            stream.head = Some(Box::new(head));
            stream.wake_reader();
        }
        if last {
            self.received(id);
        }
        Ok(())
    }

    pub(super) fn take_trailers(&mut self, id: u32, fields: Fields, last: bool) -> Result<(), &'static str> {
        let trailers = fields.into_trailers()?;
        if !last {
            return Err("it goes on after its trailers");
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.count(0, true)?;
            if stream.reading && !trailers.is_empty() {
                stream.trailers = Some(Box::new(trailers));
            }
        }
        self.received(id);
        Ok(())
    }

    pub(super) fn take_reset(&mut self, frame: &Frame) -> Result<(), Error> {
        let reason = frame.number()?;
        self.not_idle(frame.stream)?;
        self.fail(frame.stream, Error::Reset(reason.into()));
        Ok(())
    }

    pub(super) fn take_window(&mut self, frame: &Frame) -> Result<(), Error> {
        let id = frame.stream;
        let increment = i64::from(frame.number()? & 0x7fff_ffff);
        let window = match id {
            0 => &mut self.send_window,
            _ => {
                self.not_idle(id)?;
                match self.streams.get_mut(&id) {
                    Some(stream) => &mut stream.send_window,
                    None => return Ok(()),
                }
            }
        };
        *window += increment;
        if increment == 0 || *window > LARGEST_WINDOW {
            let error = Error::Protocol(
                Reason::FLOW_CONTROL_ERROR,
                "a window grows by nothing, or too large",
            );
            if id == 0 {
                return Err(error);
            }
            self.reset(id, error);
        } else if id == 0 {
            self.wake_waiting();
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.wake_writer();
        }
        Ok(())
    }
}

pub(super) fn protocol(text: &'static str) -> Error {
    Error::Protocol(Reason::PROTOCOL_ERROR, text)
}
