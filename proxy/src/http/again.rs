//! Requests that are sent again although no retry policy asks for it, because that harms nothing.
//!
//! A pod that ends takes requests for a moment after its application is gone: its clients have not heard of it yet.
//! Its sidecar says in its refusal whether an application may have seen the request, and the client's sidecar asks
//! another pod. Sidecars believe that word from each other only, over mTLS, and let no application speak it.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::headers;
use crate::{
    retry::Failure,
    upstream::{Another, Endpoint, SendError, Upstream},
};

/// Says to the client's sidecar that a refused request may be sent elsewhere.
const AGAIN: HeaderName = HeaderName::from_static("x-weir-again");
const UNSENT: HeaderValue = HeaderValue::from_static("unsent");
const IDEMPOTENT: HeaderValue = HeaderValue::from_static("idempotent");

/// Further tries of a request that reached no application.
const MOVES: u32 = 4;
/// Further tries of one that may have: a request that ends applications must not end them all.
const REPEATS: u32 = 1;
/// Another endpoint is waited for this long, in all tries of a request together.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a request may be sent again whatever its route says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harmless {
    /// It reached no application.
    Unsent,
    /// It may have, but to do it twice is to do it once (RFC 9110 §9.2.2).
    Idempotent,
}

impl Harmless {
    /// What a failed try allows.
    pub(super) fn after(error: &SendError, idempotent: bool) -> Option<Self> {
        match error.failure() {
            Some(Failure::Connect | Failure::RefusedStream) => Some(Self::Unsent),
            Some(Failure::Reset) if idempotent && error.broke() => Some(Self::Idempotent),
            _ => None,
        }
    }

    /// Takes a sidecar's word out of a response.
    pub(super) fn take(headers: &mut HeaderMap) -> Option<Self> {
        let word = headers::take(headers, &AGAIN)?;
        if word == UNSENT {
            Some(Self::Unsent)
        } else {
            (word == IDEMPOTENT).then_some(Self::Idempotent)
        }
    }

    /// Puts the word into a response.
    pub(super) fn put(self, headers: &mut HeaderMap) {
        let word = match self {
            Self::Unsent => UNSENT,
            Self::Idempotent => IDEMPOTENT,
        };
        headers.insert(AGAIN, word);
    }
}

/// The tries of one request so far.
#[derive(Default)]
pub(super) struct Tries {
    tried: SmallVec<[SocketAddr; 4]>,
    moved: u32,
    repeated: u32,
    /// A policy had it sent again: an application may have seen it, and may have done it.
    seen: bool,
    deadline: Option<Instant>,
}

impl Tries {
    /// Where to send the request that `failed` gave no answer to; `None`: nowhere, it was tried enough.
    pub(super) async fn next(
        &mut self,
        why: Harmless,
        upstream: &Upstream,
        original: SocketAddr,
        failed: &Endpoint,
    ) -> Option<Another> {
        let (used, limit) = match why {
            Harmless::Unsent => (&mut self.moved, MOVES),
            Harmless::Idempotent => (&mut self.repeated, REPEATS),
        };
        if *used >= limit {
            return None;
        }
        *used += 1;
        self.tried.push(failed.address());
        // One that only broke the connection may still be there.
        if why == Harmless::Idempotent {
            return Some(upstream.untried(original, &self.tried));
        }
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        upstream
            .another(original, &self.tried, deadline)
            .await
            .map(Another::Found)
    }

    /// Takes in that a policy has the request sent again.
    pub(super) fn retried(&mut self) {
        self.seen = true;
    }

    /// What the last try allows, in the light of those before.
    pub(super) fn sum(&self, last: Option<Harmless>) -> Option<Harmless> {
        match last {
            _ if self.seen => None,
            Some(Harmless::Unsent) if self.repeated > 0 => Some(Harmless::Idempotent),
            last => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_read_once() {
        for why in [Harmless::Unsent, Harmless::Idempotent] {
            let mut headers = HeaderMap::new();
            why.put(&mut headers);
            assert_eq!(Harmless::take(&mut headers), Some(why));
            assert_eq!(Harmless::take(&mut headers), None);
        }
        let mut headers = HeaderMap::new();
        headers.insert(AGAIN, HeaderValue::from_static("please"));
        assert_eq!(Harmless::take(&mut headers), None);
        assert!(headers.is_empty());
    }

    #[test]
    fn what_may_have_been_done_once_stays_so() {
        let mut tries = Tries::default();
        assert_eq!(tries.sum(Some(Harmless::Unsent)), Some(Harmless::Unsent));
        tries.repeated = 1;
        assert_eq!(tries.sum(Some(Harmless::Unsent)), Some(Harmless::Idempotent));
        assert_eq!(tries.sum(None), None);
        tries.retried();
        assert_eq!(tries.sum(Some(Harmless::Unsent)), None);
    }
}
