//! The way to the API server, for one kind: paced, bounded in time, and watched for outages.

use std::{fmt, sync::Arc, time::Duration};

use http::{Request, Response};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::kinds::Kind;

/// How long the API server may take to begin an answer. Within it the client repeats what is answered with 429, 503
/// or 504.
const ANSWER: Duration = Duration::from_secs(30);
/// A watch that ends as soon as it has begun is not begun again and again without pause.
const PACE: Duration = Duration::from_secs(1);
/// How often an outage is spoken of.
const SAY: Duration = Duration::from_secs(60);

/// Nothing came back.
#[derive(Debug, Error)]
#[error("no answer within {} s, or only 429, 503 and 504", ANSWER.as_secs())]
struct NoAnswer;

/// How it goes with one kind.
#[derive(Debug)]
pub(super) struct Contact {
    pub(super) kind: &'static Kind,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    answered: Instant,
    watched: Option<Instant>,
    /// Since when nothing is known to be wrong no longer.
    lost: bool,
    said: Option<Instant>,
}

impl Contact {
    pub(super) fn new(kind: &'static Kind) -> Arc<Self> {
        let state = State {
            answered: Instant::now(),
            watched: None,
            lost: false,
            said: None,
        };
        Arc::new(Self {
            kind,
            state: Mutex::new(state),
        })
    }

    /// How old the state is that is held for the kind: 0 as long as the API server answers.
    pub(super) fn age(&self) -> Duration {
        let state = self.state.lock();
        if state.lost {
            state.answered.elapsed()
        } else {
            Duration::ZERO
        }
    }

    /// The API server has answered.
    pub(super) fn answered(&self) {
        let mut state = self.state.lock();
        let outage = state.answered.elapsed();
        state.answered = Instant::now();
        state.lost = false;
        if state.said.take().is_some() {
            info!(
                kind = self.kind.name,
                outage_s = outage.as_secs(),
                "watched again"
            );
        }
    }

    /// It has not, or not as it should.
    pub(super) fn lost(&self, error: &dyn fmt::Display) {
        let mut state = self.state.lock();
        state.lost = true;
        if state.said.is_some_and(|said| said.elapsed() < SAY) {
            return;
        }
        state.said = Some(Instant::now());
        warn!(
            kind = self.kind.name,
            age_s = state.answered.elapsed().as_secs(),
            "cannot watch: {error}; the last state stays in force; see that the API server can be reached and the \
             controller's ServiceAccount may list and watch {}",
            self.kind.plural
        );
    }

    /// When the next watch may begin.
    fn next_watch(&self) -> Instant {
        let mut state = self.state.lock();
        let now = Instant::now();
        let next = state.watched.map_or(now, |last| now.max(last + PACE));
        state.watched = Some(next);
        next
    }
}

/// A client that keeps to this.
pub(super) fn through(client: &Client, contact: &Arc<Contact>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let (client, contact) = (client.clone(), contact.clone());
    let send = move |request: Request<Body>| {
        let (client, contact) = (client.clone(), contact.clone());
        async move {
            if is_watch(&request) {
                sleep_until(contact.next_watch()).await;
            }
            let response: Response<Body> = timeout(ANSWER, client.send(request))
                .await
                .map_err(|_| Box::new(NoAnswer) as tower::BoxError)??;
            if response.status().is_success() {
                contact.answered();
            }
            Ok::<_, tower::BoxError>(response)
        }
    };
    Client::new(tower::service_fn(send), namespace)
}

fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|parameter| parameter == "watch=true")
}
