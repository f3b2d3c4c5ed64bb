//! The way to the API server, for one kind: paced, bounded in time, and watched for outages.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::kinds::Kind;

/// How long the API server may take to begin an answer. Within it the client repeats what is answered with 429, 503
/// or 504.
const ANSWER: Duration = Duration::from_secs(30);
/// A watch that ends as soon as it has begun is not begun again and again without pause.
const PACE: Duration = Duration::from_secs(1);
/// How often the same error is spoken of.
const SAY: Duration = Duration::from_secs(60);
/// How many different ones within that time.
const DIFFERENT: usize = 16;

/// Nothing came back.
#[derive(Debug, Error)]
#[error("no answer within {} s, or only 429, 503 and 504", ANSWER.as_secs())]
struct NoAnswer;

/// How it goes with the API server, over all kinds.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// A kind was answered again, so that it may be worth asking for the others.
    back: Notify,
    /// Kinds that are not answered.
    lost: AtomicUsize,
    /// When what was said; the same happens to all kinds at once.
    said: Mutex<HashMap<String, Instant>>,
}

impl Outage {
    /// Waits, but no longer than until a kind is answered again.
    pub(super) async fn pause(&self, longest: Duration) {
        tokio::select! {
            () = sleep(longest) => {}
            () = self.back.notified() => {}
        }
    }

    /// Whether an error is worth a line.
    fn is_news(&self, error: &str) -> bool {
        let mut said = self.said.lock();
        said.retain(|_, at| at.elapsed() < SAY);
        let news = said.len() < DIFFERENT && !said.contains_key(error);
        if news {
            said.insert(error.to_owned(), Instant::now());
        }
        news
    }
}

/// How it goes with one kind.
#[derive(Debug)]
pub(super) struct Contact {
    pub(super) kind: &'static Kind,
    pub(super) outage: Arc<Outage>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    answered: Instant,
    watched: Option<Instant>,
    lost: bool,
}

impl Contact {
    pub(super) fn new(kind: &'static Kind, outage: &Arc<Outage>) -> Arc<Self> {
        let state = State {
            answered: Instant::now(),
            watched: None,
            lost: false,
        };
        Arc::new(Self {
            kind,
            outage: outage.clone(),
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
        let age = state.answered.elapsed();
        state.answered = Instant::now();
        if !std::mem::take(&mut state.lost) {
            return;
        }
        drop(state);
        debug!(kind = self.kind.name, "answered again");
        self.outage.back.notify_waiters();
        if self.outage.lost.fetch_sub(1, Ordering::AcqRel) == 1 {
            info!(
                outage_s = age.as_secs(),
                "the API server answers again for every kind"
            );
        }
    }

    /// It has not, or not as it should.
    pub(super) fn lost(&self, error: &dyn fmt::Display) {
        let mut state = self.state.lock();
        let age = state.answered.elapsed();
        if !std::mem::replace(&mut state.lost, true) {
            self.outage.lost.fetch_add(1, Ordering::AcqRel);
        }
        drop(state);
        let error = error.to_string();
        if self.outage.is_news(&error) {
            warn!(
                kind = self.kind.name,
                age_s = age.as_secs(),
                kinds_lost = self.outage.lost.load(Ordering::Acquire),
                "cannot watch: {error}; the last state stays in force; see that the API server can be reached and \
                 that the controller's ServiceAccount may list and watch {}",
                self.kind.plural
            );
        }
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
