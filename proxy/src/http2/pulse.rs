//! Whether a peer that owes something is still there.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use super::{frame, shared::Shared};

/// A peer is asked when nothing was heard of it for so long.
const PULSE: Duration = Duration::from_secs(1);
/// It may be gone when nothing came in so many times.
const SILENT: u32 = 3;
/// What a PING says that asks.
const PING: [u8; 8] = *b"weir-ask";

/// Asks the peer, as long as it owes something, and tells whether it answers.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    timer: Option<Pin<Box<Sleep>>>,
    /// Something has come since the last beat.
    heard: bool,
    /// Something was sent since anything came.
    spoken: bool,
    silent: u32,
}

impl Pulse {
    /// Takes in that something came.
    pub(super) fn heard(&mut self, shared: &Shared) {
        self.heard = true;
        self.spoken = false;
        if self.silent > 0 {
            self.silent = 0;
            shared.set_quiet(false);
        }
    }

    /// Takes in that something was sent.
    pub(super) fn spoken(&mut self) {
        self.spoken = true;
    }

    /// Asks when it is time.
    pub(super) fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) {
        loop {
            let mut state = shared.lock();
            if state.streams.is_empty() {
                self.timer = None;
                return;
            }
            let timer = self.timer.get_or_insert_with(|| {
                self.heard = false;
                Box::pin(sleep(PULSE))
            });
            let Poll::Ready(()) = timer.as_mut().poll(cx) else {
                return;
            };
            if !std::mem::take(&mut self.heard) {
                if !self.spoken && state.streams.values().all(|stream| stream.begun) {
                    self.timer = None;
                    return;
                }
                self.silent += 1;
                frame::put_ping(&mut state.out, 0, PING);
                shared.set_quiet(self.silent >= SILENT);
            }
            timer.as_mut().reset(Instant::now() + PULSE);
        }
    }
}
