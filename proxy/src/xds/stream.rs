//! The aggregated stream: keeps one open, follows interest, answers responses, backs off.

use std::{
    future::Future,
    pin::pin,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, metadata::AsciiMetadataKey, transport::Channel};
use weir_xds::{
    ResourceType,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            self as discovery,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient as Client,
        },
    },
};

use super::{
    Connect, Interest, Status, Store,
    apply::Sink,
    connect,
    delta::Delta,
    refusals::{Held, Refusals},
    sotw::StateOfTheWorld,
    subscriptions::Subscriptions,
};
use crate::bootstrap::{Ads, Protocol as Variant};

/// How long a name stays subscribed after its last watcher, unless told otherwise.
pub const IDLE_GRACE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A pod that waits for its first configuration is seen to wait, so no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A stream that served so long had a healthy controller; the longest pause after it.
const SETTLED: Duration = Duration::from_secs(10);
const MOVE: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest response, in bytes.
const MAX_RESPONSE: usize = 64 << 20;

/// All that the stream needs. [`Stream::run`] it in a task of its own; dropping that task ends the stream.
pub struct Stream {
    /// Protocol variant and keepalive.
    pub ads: Ads,
    /// Who we are.
    pub node: Node,
    /// Opens connections to the control plane.
    pub connect: Connect,
    /// Where resources go.
    pub store: Store,
    /// What is wanted, as [`Store::new`] gave it.
    pub interest: mpsc::UnboundedReceiver<Interest>,
    /// Where the state can be seen.
    pub status: Status,
    /// How long a name stays subscribed after its last watcher; [`IDLE_GRACE`].
    pub idle_grace: Duration,
}

/// One variant of the protocol.
pub(super) trait Protocol: Default + Send {
    type Request: Send + 'static;
    type Response: Send + 'static;

    /// The first requests of a new stream.
    fn open(&mut self, node: Node, subscriptions: &mut Subscriptions) -> Vec<Self::Request>;
    /// What to say when names were added or given up.
    fn changed(&mut self, subscriptions: &mut Subscriptions) -> Vec<Self::Request>;
    /// Takes a response and says ACK or NACK.
    fn answer(
        &mut self,
        response: Self::Response,
        subscriptions: &mut Subscriptions,
        sink: &mut Sink,
    ) -> Self::Request;
    /// The type that a request is about, and why it refuses a response, if it does.
    fn refusal(request: &Self::Request) -> (&str, Option<&str>);
}

type Requests<R> = Request<mpsc::UnboundedReceiver<R>>;
type Call<P> = fn(Channel, Requests<<P as Protocol>::Request>, Status) -> Responses<P>;
type Responses<P> = BoxStream<'static, Result<<P as Protocol>::Response, tonic::Status>>;

impl Stream {
    /// Keeps a stream open for ever.
    pub async fn run(self) {
        match self.ads.protocol {
            Variant::Delta => self.follow::<Delta>(call_delta).await,
            Variant::StateOfTheWorld => self.follow::<StateOfTheWorld>(call_sotw).await,
        }
    }

    async fn follow<P: Protocol>(mut self, call: Call<P>) {
        let mut protocol = P::default();
        let mut subscriptions = Subscriptions::new(self.idle_grace, &self.ads.wildcard);
        let mut sink = Sink::new(self.store.clone(), self.status.clone());
        let mut pause = Pause::default();
        loop {
            let mut served = Duration::ZERO;
            let error = match self.open(&mut subscriptions, &mut sink).await {
                Ok(channel) => {
                    let opened = Instant::now();
                    let (requests, outgoing) = mpsc::unbounded_channel();
                    for request in protocol.open(self.node.clone(), &mut subscriptions) {
                        let _ = requests.send(request);
                    }
                    let responses = call(channel, self.request(outgoing), self.status.clone());
                    let talk = self.converse(
                        &mut protocol,
                        &mut subscriptions,
                        &mut sink,
                        &requests,
                        responses,
                        &mut pause,
                    );
                    let ended = talk.await;
                    served = opened.elapsed();
                    if ended.would_again {
                        served = Duration::ZERO;
                        pause.lengthen();
                    }
                    ended.why
                }
                Err(error) => error,
            };
            self.status.failed(&error);
            let wait = pause.next(served, rand::random());
            tracing::warn!(%error, retry_in = ?wait, "no stream to the control plane; the last good configuration stays in force");
            self.meanwhile(&mut subscriptions, &mut sink, tokio::time::sleep(wait))
                .await;
        }
    }

    /// The request of a new stream, with the metadata of the bootstrap.
    fn request<R>(&self, outgoing: mpsc::UnboundedReceiver<R>) -> Requests<R> {
        let mut request = Request::new(outgoing);
        for (name, value) in &self.ads.metadata {
            if let (Ok(name), Ok(value)) = (name.parse::<AsciiMetadataKey>(), value.parse()) {
                request.metadata_mut().append(name, value);
            }
        }
        request
    }

    async fn open(&mut self, subscriptions: &mut Subscriptions, sink: &mut Sink) -> Result<Channel, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let authority = if let Some(authority) = &self.ads.authority {
            authority
        } else if self.ads.cluster.chars().all(plain) {
            &self.ads.cluster
        } else {
            "xds"
        };
        let (connect, authority, keepalive) =
            (self.connect.clone(), authority.to_owned(), self.ads.keepalive);
        let opening = connect::channel(&connect, &authority, keepalive);
        let opening = tokio::time::timeout(CONNECT_TIMEOUT, opening);
        match self.meanwhile(subscriptions, sink, opening).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(with_causes(&error)),
            Err(_) => Err("connecting took too long".to_owned()),
        }
    }

    /// Talks on one stream until it ends.
    async fn converse<P: Protocol>(
        &mut self,
        protocol: &mut P,
        subscriptions: &mut Subscriptions,
        sink: &mut Sink,
        requests: &mpsc::UnboundedSender<P::Request>,
        mut responses: Responses<P>,
        pause: &mut Pause,
    ) -> Ended {
        let (mut refusals, mut held) = (Refusals::default(), Held::default());
        loop {
            let due = [subscriptions.next_expiry(), sink.lapses.next(), held.next()];
            tokio::select! {
                response = responses.next() => match response {
                    Some(Ok(response)) => {
                        pause.reset();
                        let answer = protocol.answer(response, subscriptions, sink);
                        let (url, refused) = P::refusal(&answer);
                        let kind = ResourceType::from_url(url);
                        let wait = refusals.pause(kind, refused);
                        if let Some(earlier) = held.of(kind) {
                            let _ = requests.send(earlier);
                        }
                        if wait.is_zero() {
                            let _ = requests.send(answer);
                        } else {
                            held.hold(Instant::now() + wait, kind, answer);
                        }
                    }
                    Some(Err(status)) => return Ended::by(&status),
                    None => return Ended::unasked(),
                },
                Some(interest) = self.interest.recv() => self.follow_interest(subscriptions, sink, interest),
                () = until(due.into_iter().flatten().min()) => {
                    sink.expire(subscriptions, Instant::now());
                    while let Some(answer) = held.due(Instant::now()) {
                        let _ = requests.send(answer);
                    }
                }
            }
            for request in protocol.changed(subscriptions) {
                let _ = requests.send(request);
            }
        }
    }

    /// Follows interest while something else goes on.
    async fn meanwhile<F: Future>(
        &mut self,
        subscriptions: &mut Subscriptions,
        sink: &mut Sink,
        other: F,
    ) -> F::Output {
        let mut other = pin!(other);
        loop {
            let due = [subscriptions.next_expiry(), sink.lapses.next()];
            tokio::select! {
                output = &mut other => return output,
                Some(interest) = self.interest.recv() => self.follow_interest(subscriptions, sink, interest),
                () = until(due.into_iter().flatten().min()) => sink.expire(subscriptions, Instant::now()),
            }
        }
    }

    /// Takes all that is there, so that names wanted together are asked for together.
    fn follow_interest(&mut self, subscriptions: &mut Subscriptions, sink: &Sink, first: Interest) {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(interest) = next {
            sink.follow(subscriptions, &interest, now);
            next = self.interest.try_recv().ok();
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn call_delta(
    channel: Channel,
    requests: Requests<discovery::DeltaDiscoveryRequest>,
    status: Status,
) -> Responses<Delta> {
    let mut client = Client::new(channel).max_decoding_message_size(MAX_RESPONSE);
    let opening = async move {
        let requests = requests.map(UnboundedReceiverStream::new);
        let responses = client.delta_aggregated_resources(requests).await?;
        status.opened();
        Ok::<_, tonic::Status>(responses.into_inner())
    };
    futures::stream::once(opening).try_flatten().boxed()
}

fn call_sotw(
    channel: Channel,
    requests: Requests<discovery::DiscoveryRequest>,
    status: Status,
) -> Responses<StateOfTheWorld> {
    let mut client = Client::new(channel).max_decoding_message_size(MAX_RESPONSE);
    let opening = async move {
        let requests = requests.map(UnboundedReceiverStream::new);
        let responses = client.stream_aggregated_resources(requests).await?;
        status.opened();
        Ok::<_, tonic::Status>(responses.into_inner())
    };
    futures::stream::once(opening).try_flatten().boxed()
}

/// Why a stream is over.
struct Ended {
    why: String,
    /// Whether the next one would end the same way, so that there is no hurry.
    would_again: bool,
}

impl Ended {
    fn unasked() -> Self {
        Self {
            why: "the control plane ended the stream".to_owned(),
            would_again: false,
        }
    }

    fn by(status: &tonic::Status) -> Self {
        let (code, message) = (status.code(), status.message());
        let is_too_large = code == Code::OutOfRange;
        let remedy = match is_too_large {
            true => "; the control plane has to send less at a time",
            false => "",
        };
        Self {
            why: format!("the stream failed: {code:?}: {message}{remedy}"),
            would_again: is_too_large,
        }
    }
}

/// The error with its causes, but for those that its text already tells.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = error.source();
    }
    text
}

/// Growing pauses between attempts.
#[derive(Default)]
struct Pause {
    failures: u32,
}

impl Pause {
    /// The next pause, of which a part is left to chance (from 0 to 1) so that proxies do not come back together.
    /// After a stream that `served` for long there is nearly none: its controller was replaced, another is there.
    fn next(&mut self, served: Duration, chance: f64) -> Duration {
        if served >= SETTLED {
            return MOVE.mul_f64(chance);
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        // Proxies that fail together come back one by one, at the longest pause too.
        let longest = LONGEST_PAUSE.mul_f64(0.5 + 0.5 * chance);
        doubled.mul_f64(0.8 + 0.4 * chance).min(longest)
    }

    fn reset(&mut self) {
        self.failures = 0;
    }

    /// Makes the next pause one of the longest.
    fn lengthen(&mut self) {
        self.failures = u32::MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_start_over_after_a_response() {
        let mut pause = Pause::default();
        let mut failed = |chance| pause.next(Duration::from_secs(1), chance);
        assert_eq!(failed(0.5), Duration::from_millis(500));
        assert_eq!(failed(0.5), Duration::from_secs(1));
        for _ in 0..100 {
            assert!(failed(1.0) <= LONGEST_PAUSE);
        }
        pause.reset();
        assert_eq!(pause.next(Duration::ZERO, 0.5), Duration::from_millis(500));
    }

    #[test]
    fn there_is_no_hurry_to_fail_again() {
        let mut pause = Pause::default();
        pause.lengthen();
        assert!(pause.next(Duration::ZERO, 0.0) >= LONGEST_PAUSE / 2);
    }

    #[test]
    fn another_controller_is_asked_soon_after_one_that_served() {
        let mut pause = Pause::default();
        for _ in 0..20 {
            assert!(pause.next(SETTLED, 1.0) <= MOVE);
        }
        assert_eq!(pause.next(SETTLED, 0.0), Duration::ZERO);
    }
}
