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
#[derive(Debug)]
pub(super) struct Idle {
    /// The limit.
    pub(super) limit: Duration,
    flow: Arc<Flow>,
    sleep: Pin<Box<Sleep>>,
    seen: u64,
}

impl Idle {
    pub(super) fn new(limit: Duration, flow: Arc<Flow>) -> Self {
        Self {
            limit,
            seen: flow.frames.load(Ordering::Relaxed),
            flow,
            sleep: Box::pin(sleep(limit)),
        }
    }

    /// Ready when nothing passed for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = self.flow.frames.load(Ordering::Relaxed);
            if now == self.seen {
                return Poll::Ready(());
            }
            self.seen = now;
            self.sleep.as_mut().reset(Instant::now() + self.limit);
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
