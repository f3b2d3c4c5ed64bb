//! The client: closed loops for the highest rate, an open loop for latency at a given one, bytes. Everything runs on
//! the calling thread, or on threads that it starts, which inherit its pod and its core.

mod grpc;
mod http1;
mod open;
mod tcp;

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::{net::TcpStream, runtime::Builder};

use super::scenarios::{Load, Protocol, Scenario};

/// Largest latency told apart: one minute.
const LONGEST: u64 = 60_000_000_000;
/// How long one answer may take before the run counts as failed.
const ANSWER: Duration = Duration::from_secs(20);

/// What a run gave.
pub(crate) struct Outcome {
    /// Requests answered; 0 for a stream of bytes.
    pub(crate) count: u64,
    /// Bytes of bodies, both ways together where they go both ways.
    pub(crate) bytes: u64,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// Latencies in nanoseconds; empty for a stream.
    pub(crate) latency: Histogram<u64>,
}

/// How long, and whom to tell.
pub(crate) struct Plan<'a> {
    /// For so long, on the same connections, before anything counts.
    pub(crate) warm: Duration,
    /// For so long it counts.
    pub(crate) time: Duration,
    /// Called when that begins, and when it ends, before connections are closed.
    pub(crate) mark: &'a (dyn Fn() + Sync),
}

/// Puts the load of a scenario on `target`.
///
/// # Errors
/// When a connection breaks or an answer is not what it should be.
pub(crate) fn run(target: SocketAddr, scenario: &Scenario, plan: &Plan<'_>) -> anyhow::Result<Outcome> {
    match scenario.load {
        Load::Closed { connections, body } => http1::closed(target, connections, body, plan),
        Load::Memory { connections } => http1::closed(target, connections, 0, plan),
        Load::Open { connections, rate } => open::run(target, connections, rate, plan),
        Load::New { lanes } if scenario.protocol.is_http() => http1::new_connections(target, lanes, plan),
        Load::New { lanes } => tcp::new_connections(target, lanes, plan),
        Load::Calls { connections, each } => grpc::calls(target, connections, each, plan),
        Load::Messages { connections, each } => grpc::messages(target, connections, each, plan),
        Load::Echo { connections } => tcp::echo(target, connections, plan),
        Load::Stream => tcp::stream(target, plan),
        Load::Start | Load::Mesh { .. } => http1::closed(target, 1, 0, plan),
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// When there is no good answer within some seconds.
pub(crate) fn once(target: SocketAddr, protocol: Protocol) -> anyhow::Result<()> {
    on_this_thread(async {
        let exchange = async {
            match protocol {
                Protocol::Http1 => http1::once(target).await,
                Protocol::Grpc => grpc::once(target).await,
                Protocol::Tcp | Protocol::TcpPlain => tcp::once(target).await,
            }
        };
        let answered = tokio::time::timeout(Duration::from_secs(5), exchange);
        answered.await.context("no answer within 5 s")?
    })?
}

fn on_this_thread<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}

async fn dial(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(target).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Something that sends a request and waits for its answer, over and over.
trait Lane {
    /// One request and its answer.
    fn turn(&mut self) -> impl Future<Output = anyhow::Result<()>>;
}

/// Runs lanes side by side, each as fast as it is answered; `bytes` is what a turn carries.
async fn in_turns<L: Lane + 'static>(lanes: Vec<L>, bytes: u64, plan: &Plan<'_>) -> anyhow::Result<Outcome> {
    let (lanes, _) = turns(lanes, plan.warm).await?;
    (plan.mark)();
    let begin = Instant::now();
    let (lanes, latency) = turns(lanes, plan.time).await?;
    let elapsed = begin.elapsed();
    (plan.mark)();
    drop(lanes);
    Ok(Outcome {
        count: latency.len(),
        bytes: bytes * latency.len(),
        elapsed,
        latency,
    })
}

async fn turns<L: Lane + 'static>(lanes: Vec<L>, time: Duration) -> anyhow::Result<(Vec<L>, Histogram<u64>)> {
    let end = Instant::now() + time;
    let local = tokio::task::LocalSet::new();
    let tasks: Vec<_> = lanes
        .into_iter()
        .map(|lane| local.spawn_local(one_lane(lane, end)))
        .collect();
    local
        .run_until(async {
            let (mut lanes, mut total) = (Vec::new(), histogram()?);
            for task in tasks {
                let (lane, latency) = task.await??;
                lanes.push(lane);
                total.add(latency)?;
            }
            Ok((lanes, total))
        })
        .await
}

async fn one_lane<L: Lane>(mut lane: L, end: Instant) -> anyhow::Result<(L, Histogram<u64>)> {
    let mut latency = histogram()?;
    let mut begin = Instant::now();
    while begin < end {
        let answered = tokio::time::timeout(ANSWER, lane.turn());
        answered.await.context("a request was not answered")??;
        let now = Instant::now();
        latency.saturating_record(nanos(now - begin));
        begin = now;
    }
    Ok((lane, latency))
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1000, LONGEST, 3)?)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(LONGEST).min(LONGEST)
}
