//! Bodies of requests that can be sent more than once.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use super::{Body, BodyError};

/// A request whose body is longer is not sent again.
const LARGEST_BODY: usize = 64 * 1024;

/// A request's body that is kept while it is sent. It still streams; it is remembered as it passes, so that another try
/// begins with what the last one has sent. `None`: there is none.
pub(super) struct Repeatable(Option<Arc<Mutex<Source>>>);

struct Source {
    body: Body,
    passed: Vec<Passed>,
    bytes: usize,
    /// Which try may read on.
    current: u32,
    ended: bool,
    /// It was too long to keep, or broke off.
    lost: bool,
}

#[derive(Clone)]
enum Passed {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Repeatable {
    pub(super) fn new(body: Body) -> Self {
        let source = |body| Source {
            body,
            passed: Vec::new(),
            bytes: 0,
            current: 0,
            ended: false,
            lost: false,
        };
        Self((!body.is_end_stream()).then(|| Arc::new(Mutex::new(source(body)))))
    }

    /// Whether there can be another try: the body was kept.
    pub(super) fn can_repeat(&self) -> bool {
        self.0.as_ref().is_none_or(|source| !source.lock().lost)
    }

    /// The body of another try, which ends those before; `None` when it was not kept.
    pub(super) fn next(&self) -> Option<Body> {
        let Some(source) = &self.0 else {
            return Some(Body::empty());
        };
        let mut locked = source.lock();
        if locked.lost {
            return None;
        }
        locked.current += 1;
        Some(Body::repeated(Repeated {
            source: source.clone(),
            number: locked.current,
            next: 0,
        }))
    }
}

/// The body of one try.
pub(super) struct Repeated {
    source: Arc<Mutex<Source>>,
    number: u32,
    /// The first frame of those remembered that it has not given yet.
    next: usize,
}

impl Repeated {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut source = self.source.lock();
        if source.current != self.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(passed) = source.passed.get(self.next).filter(|_| !source.lost) {
            self.next += 1;
            return Poll::Ready(Some(Ok(passed.clone().into())));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut source.body).poll_frame(cx)) {
            None => {
                source.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                source.lost = true;
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        source.remember(&frame);
        self.next = source.passed.len();
        Poll::Ready(Some(Ok(frame)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let source = self.source.lock();
        self.next >= source.passed.len() && (source.ended || source.body.is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let source = self.source.lock();
        let kept = source.passed.iter().skip(self.next).map(|passed| match passed {
            Passed::Data(bytes) => bytes.len() as u64,
            Passed::Trailers(_) => 0,
        });
        let (kept, rest) = (kept.sum::<u64>(), source.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

impl Source {
    fn remember(&mut self, frame: &Frame<Bytes>) {
        if self.lost {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            self.passed.push(Passed::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.passed.push(Passed::Trailers(trailers.clone()));
        }
        if self.bytes > LARGEST_BODY {
            self.lost = true;
            self.passed = Vec::new();
        }
    }
}

impl From<Passed> for Frame<Bytes> {
    fn from(passed: Passed) -> Self {
        match passed {
            Passed::Data(bytes) => Self::data(bytes),
            Passed::Trailers(trailers) => Self::trailers(trailers),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn each_try_sends_the_whole_body() {
        let repeatable = Repeatable::new(Body::full("bytes"));
        for _ in 0..3 {
            let body = repeatable.next().unwrap();
            assert_eq!(body.size_hint().exact(), Some(5));
            assert_eq!(body.collect().await.unwrap().to_bytes(), "bytes");
        }
    }

    #[tokio::test]
    async fn a_try_that_was_given_up_takes_nothing_from_the_next() {
        let repeatable = Repeatable::new(Body::full("bytes"));
        let mut first = repeatable.next().unwrap();
        let mut second = repeatable.next().unwrap();
        assert!(first.frame().await.unwrap().is_err());
        assert_eq!(
            second.frame().await.unwrap().unwrap().into_data().unwrap(),
            "bytes"
        );
        assert!(second.frame().await.is_none() && second.is_end_stream());
    }

    #[tokio::test]
    async fn a_long_body_is_sent_once() {
        let repeatable = Repeatable::new(Body::full(vec![0; LARGEST_BODY + 1]));
        let sent = repeatable.next().unwrap().collect().await.unwrap();
        assert_eq!(sent.to_bytes().len(), LARGEST_BODY + 1);
        assert!(repeatable.next().is_none());
    }

    #[test]
    fn what_has_no_body_stays_so() {
        let repeatable = Repeatable::new(Body::empty());
        assert!(repeatable.next().unwrap().is_end_stream());
    }
}
