//! How much a peer may send before what it has sent was read (RFC 9113 §5.2).
//!
//! A stream begins with a small window, since one whose reader stands still holds as much memory. But no more than one
//! window comes in a round trip, so a small one makes the way from a far peer slow. How long a round trip is, a PING
//! tells that is sent when a part of the window was used: if half of the window comes before its answer, the window
//! may be what holds the peer up, and it is doubled if whoever reads keeps up.

use super::{
    frame,
    state::{State, length},
};
use crate::http::limits::{SHARED_WINDOW, STREAM_WINDOW};

/// What a PING says whose answer takes a round trip.
pub(super) const PING: [u8; 8] = *b"weir-far";
/// What the windows of a connection's streams may grow by, all together.
const SPARE: u32 = 16 * 1024 * 1024;
/// The largest window of a stream: as much as TCP has by default for a connection.
const LARGEST: u32 = 4 * 1024 * 1024;
/// A peer is told of what was read when it is half of a window, or so much.
const STEP: u32 = 1024 * 1024;

/// What may come on a stream, or on a connection.
#[derive(Debug)]
pub(super) struct Window {
    /// Octets that may come when all that came was read, and the peer was told.
    size: u32,
    /// Octets that may still come.
    left: i64,
    /// Octets read of which the peer has not been told.
    read: u32,
    /// It was measured since the peer was told the last time.
    measured: bool,
}

impl Window {
    /// That of a stream which begins.
    pub(super) fn of_stream() -> Self {
        Self::new(STREAM_WINDOW)
    }

    /// That of a connection: whichever of its streams stand still, it does not stop the others.
    pub(super) fn of_connection() -> Self {
        Self::new(SHARED_WINDOW + SPARE + STEP)
    }

    fn new(size: u32) -> Self {
        Self {
            size,
            left: i64::from(size),
            read: 0,
            measured: false,
        }
    }

    /// Octets that may come when nothing has.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// Takes in that so many octets came, and says whether they were granted.
    pub(super) fn take(&mut self, octets: usize) -> bool {
        self.left -= length(octets);
        self.left >= 0
    }

    /// Takes in that so many octets were read, and says what the peer is to be told.
    fn release(&mut self, octets: usize) -> Option<u32> {
        let octets = u32::try_from(octets).unwrap_or(u32::MAX);
        self.read = self.read.saturating_add(octets);
        if self.read < STEP.min(self.size / 2) {
            return None;
        }
        self.measured = false;
        let increment = std::mem::take(&mut self.read);
        self.left += i64::from(increment);
        Some(increment)
    }

    /// Whether so much of it is used that more may be of use.
    fn is_used(&self) -> bool {
        self.size < LARGEST && self.left < i64::from(self.size / 4 * 3)
    }

    /// Whether those who read keep up: hardly anything waits for them.
    fn is_read(&self) -> bool {
        i64::from(self.size) - self.left - i64::from(self.read) < i64::from(self.size / 4)
    }

    fn grow(&mut self, octets: u32) {
        self.size += octets;
        self.left += i64::from(octets);
    }
}

/// How far the peer is, as seen by what it sends in a round trip.
#[derive(Debug)]
pub(super) struct Distance {
    /// What windows may still grow by.
    spare: u32,
    measuring: Option<Sample>,
}

/// What came on a stream since a PING was sent.
#[derive(Debug)]
struct Sample {
    stream: u32,
    octets: usize,
}

impl Default for Distance {
    fn default() -> Self {
        Self {
            spare: SPARE,
            measuring: None,
        }
    }
}

impl Distance {
    /// Takes in that so many octets came on a stream, and says whether a PING is to be sent.
    pub(super) fn count(&mut self, id: u32, octets: usize, window: &mut Window) -> bool {
        match &mut self.measuring {
            Some(sample) => {
                if sample.stream == id {
                    sample.octets += octets;
                }
                false
            }
            None if self.spare > 0 && window.is_used() && !window.measured => {
                window.measured = true;
                self.measuring = Some(Sample {
                    stream: id,
                    octets: 0,
                });
                true
            }
            None => false,
        }
    }

    /// Has what this window of a stream grew by for others.
    pub(super) fn give_back(&mut self, window: &Window) {
        self.spare += window.size - STREAM_WINDOW;
    }
}

impl State {
    /// Takes in that a body's octets were read, or are not wanted, and tells the peer now and then.
    pub(super) fn release(&mut self, id: u32, octets: usize) {
        if let Some(increment) = self.window.release(octets) {
            frame::put_window_update(&mut self.out, 0, increment);
            self.wake_driver();
        }
        let stream = self.streams.get_mut(&id);
        let Some(stream) = stream.filter(|stream| stream.reading && !stream.received) else {
            return;
        };
        let Some(increment) = stream.window.release(octets) else {
            return;
        };
        frame::put_window_update(&mut self.out, id, increment);
        self.wake_driver();
    }

    /// Takes in that the peer has answered, and grants more to a stream of which much came since it was asked, and was
    /// read.
    pub(super) fn take_round_trip(&mut self) {
        let Some(sample) = self.distance.measuring.take() else {
            return;
        };
        let stream = self.streams.get_mut(&sample.stream);
        let Some(stream) = stream.filter(|stream| stream.reading && !stream.received) else {
            return;
        };
        let window = &mut stream.window;
        if sample.octets < window.size as usize / 2 || !window.is_read() {
            return;
        }
        let more = window.size.min(LARGEST - window.size).min(self.distance.spare);
        if more > 0 {
            window.grow(more);
            self.distance.spare -= more;
            frame::put_window_update(&mut self.out, sample.stream, more);
            self.wake_driver();
        }
    }
}
