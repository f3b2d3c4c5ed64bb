//! What passes of a request and its response, and the limits on how long nothing does.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep};

use super::BodyError;
use super::access::Entry;

/// Counts what passes of one request and its response.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Bytes of the request's body.
    pub(super) received: AtomicU64,
    /// Bytes of the response's body.
    pub(super) sent: AtomicU64,
    frames: AtomicU64,
}

/// Of which of the two a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Of the request.
    Received,
    /// Of the response.
    Sent,
}

impl Flow {
    fn passed(&self, way: Way, frame: &Frame<Bytes>) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        let bytes = match way {
            Way::Received => &self.received,
            Way::Sent => &self.sent,
        };
        if let Some(data) = frame.data_ref() {
            bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
    }
}

/// The idle timeout of a stream. The timer is not touched by frames: when it fires, it is set anew if any came, so
/// a stream ends after one to two times the limit.
pub(super) struct Idle {
    /// The limit.
    pub(super) limit: Duration,
    timer: Option<Timer>,
    spare: Spare,
}

struct Timer {
    flow: Arc<Flow>,
    sleep: Pin<Box<Sleep>>,
    seen: u64,
}

/// Timers of one connection that are not in use. Taking one of them costs less than to set a new one, and nearly
/// all requests have one with a timer that never fires.
#[derive(Clone, Default)]
pub(super) struct Spare(Arc<Mutex<Vec<(Duration, Timer)>>>);

/// Spare timers that a connection keeps.
const SPARES: usize = 16;

impl Spare {
    /// The timer for one request, which counts in `flow` if given.
    pub(super) fn take(&self, limit: Duration, flow: Option<&Arc<Flow>>) -> Idle {
        let spare = self.0.lock().pop_if(|(of, _)| *of == limit);
        let mut timer = match spare {
            Some((_, timer)) => timer,
            None => Timer {
                flow: Arc::default(),
                sleep: Box::pin(sleep(limit)),
                seen: 0,
            },
        };
        match flow {
            Some(flow) => timer.flow = flow.clone(),
            None if Arc::strong_count(&timer.flow) > 1 => timer.flow = Arc::default(),
            None => {}
        }
        // A timer that ran before this request began must not end it.
        let frames = timer.flow.frames.fetch_add(1, Ordering::Relaxed);
        timer.seen = frames;
        Idle {
            limit,
            timer: Some(timer),
            spare: self.clone(),
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let Some(timer) = self.timer.take() else {
            return;
        };
        let mut spares = self.spare.0.lock();
        if spares.len() < SPARES {
            spares.push((self.limit, timer));
        }
    }
}

impl Timer {
    fn poll(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = self.flow.frames.load(Ordering::Relaxed);
            if now == self.seen {
                return Poll::Ready(());
            }
            self.seen = now;
            self.sleep.as_mut().reset(Instant::now() + limit);
        }
    }
}

impl Idle {
    /// Where the request is counted.
    pub(super) fn flow(&self) -> Option<&Arc<Flow>> {
        self.timer.as_ref().map(|timer| &timer.flow)
    }

    /// Ready when nothing passed for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.poll(self.limit, cx),
            None => Poll::Pending,
        }
    }
}

/// What is done beside while a body passes.
#[derive(Default)]
pub(super) struct Watch {
    /// Where it is counted.
    pub(super) flow: Option<(Arc<Flow>, Way)>,
    /// When it breaks off.
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    /// When it breaks off for being idle.
    pub(super) idle: Option<Idle>,
    /// The access log's line, written when the body is gone.
    pub(super) entry: Option<Box<Entry>>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl Watch {
    pub(super) fn see(&mut self, cx: &mut Context<'_>, polled: Polled) -> Polled {
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some((flow, way)) = &self.flow {
                    flow.passed(*way, frame);
                }
            }
            Poll::Pending => {
                if let Some(deadline) = &mut self.deadline
                    && deadline.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
                if let Some(idle) = &mut self.idle
                    && idle.poll(cx).is_ready()
                {
                    return Poll::Ready(Some(Err(BodyError::Idle)));
                }
            }
            Poll::Ready(_) => {}
        }
        polled
    }
}
