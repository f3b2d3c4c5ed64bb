//! Whether anything goes on on a connection: its open streams, counted.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{sync::Notify, time::timeout};
use tonic::{Status, body::Body as AnyBody};

/// The streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: AtomicUsize,
    /// Since the beginning, ended ones among them.
    opened: AtomicUsize,
    changed: Notify,
}

impl Streams {
    /// One more, for as long as this lives.
    pub(super) fn open(self: &Arc<Self>) -> Stream {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        Stream(self.clone())
    }

    /// Waits until there has been no stream for so long. `first` is dropped with the first one, and given back if
    /// there never was any.
    pub(super) async fn unused<F>(&self, patience: Duration, first: F) -> Option<F> {
        let mut first = Some(first);
        let mut seen = 0;
        loop {
            let more = self.wait(|| self.opened.load(Ordering::Relaxed) != seen);
            if timeout(patience, more).await.is_err() {
                return first;
            }
            drop(first.take());
            self.wait(|| self.open.load(Ordering::Relaxed) == 0).await;
            seen = self.opened.load(Ordering::Relaxed);
        }
    }

    async fn wait(&self, enough: impl Fn() -> bool) {
        while !enough() {
            self.changed.notified().await;
        }
    }
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Stream(Arc<Streams>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

/// The body of a response, which holds its stream open.
pub(super) struct Held {
    pub(super) body: AnyBody,
    pub(super) _stream: Stream,
}

impl Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, time::Instant};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_connection_is_unused_some_time_after_its_last_stream() {
        let streams = Arc::new(Streams::default());
        let (first, opened) = oneshot::channel::<()>();
        let stream = streams.open();
        let watched = streams.clone();
        let unused = tokio::spawn(async move { watched.unused(PATIENCE, first).await });
        assert!(opened.await.is_err(), "dropped with the first stream");
        tokio::time::sleep(PATIENCE * 4).await;
        assert!(!unused.is_finished());
        let ended = Instant::now();
        drop(stream);
        // Over before anybody looks.
        drop(streams.open());
        assert!(unused.await.unwrap().is_none());
        assert!(ended.elapsed() >= PATIENCE);
    }

    #[tokio::test]
    async fn a_connection_that_never_had_a_stream_is_unused() {
        let begun = Instant::now();
        assert!(Streams::default().unused(PATIENCE, ()).await.is_some());
        assert!(begun.elapsed() >= PATIENCE);
    }
}
