//! The client: closed loops for the highest rate, an open loop for latency at a given one, bytes. Everything runs on
//! the calling thread, or on threads that it starts, which inherit its pod and its core.

mod grpc;
mod http1;
mod open;
mod tcp;

use std::{
    cell::RefCell,
    future::Future,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::{net::TcpStream, runtime::Builder, task::LocalSet, time::timeout};

use super::scenarios::{Load, Protocol, Scenario};

/// Largest latency told apart: one minute.
const LONGEST: u64 = 60_000_000_000;
/// How long the last answers may take before the run counts as failed.
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
        let answered = timeout(Duration::from_secs(5), exchange);
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
    let (lanes, _) = turns(lanes, plan.warm, ANSWER).await?;
    (plan.mark)();
    let begin = Instant::now();
    let (lanes, latency) = turns(lanes, plan.time, ANSWER).await?;
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

/// Runs lanes for `time`, then waits for the last answers, but no longer than `patience`: a deadline for each request
/// would cost as much as a part of the request.
async fn turns<L: Lane + 'static>(
    lanes: Vec<L>,
    time: Duration,
    patience: Duration,
) -> anyhow::Result<(Vec<L>, Histogram<u64>)> {
    let end = Instant::now() + time;
    // One for all: each is large, so with many of them none would be in the processor's cache.
    let latency = Rc::new(RefCell::new(histogram()?));
    let local = LocalSet::new();
    let tasks: Vec<_> = lanes
        .into_iter()
        .map(|lane| local.spawn_local(one_lane(lane, end, latency.clone())))
        .collect();
    let finished = local.run_until(async {
        let mut lanes = Vec::new();
        for task in tasks {
            lanes.push(task.await??);
        }
        anyhow::Ok(lanes)
    });
    let finished = timeout(time + patience, finished).await;
    let lanes = finished.context("a request was not answered")??;
    Ok((lanes, latency.replace(histogram()?)))
}

async fn one_lane<L: Lane>(
    mut lane: L,
    end: Instant,
    latency: Rc<RefCell<Histogram<u64>>>,
) -> anyhow::Result<L> {
    let mut begin = Instant::now();
    while begin < end {
        lane.turn().await?;
        let now = Instant::now();
        latency.borrow_mut().saturating_record(nanos(now - begin));
        begin = now;
    }
    Ok(lane)
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1000, LONGEST, 3)?)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(LONGEST).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answered after so long.
    struct Answered(Duration);

    impl Lane for Answered {
        async fn turn(&mut self) -> anyhow::Result<()> {
            tokio::time::sleep(self.0).await;
            Ok(())
        }
    }

    #[test]
    fn every_turn_counts_and_one_without_an_answer_fails() {
        let run = |answered: [u64; 2], patience| {
            let lanes = answered.map(|millis| Answered(Duration::from_millis(millis)));
            let time = Duration::from_millis(60);
            on_this_thread(turns(lanes.into(), time, patience)).unwrap()
        };
        let (lanes, latency) = run([5, 200], ANSWER).unwrap();
        // One is in its first turn when the time is over; the other has had some.
        assert_eq!(lanes.len(), 2);
        assert!((2..=13).contains(&latency.len()), "{} turns", latency.len());
        // Three digits are kept.
        assert!(latency.max() > 199_000_000 && latency.min() > 4_900_000);
        let error = run([5, 3_600_000], Duration::from_millis(100)).err().unwrap();
        assert_eq!(error.to_string(), "a request was not answered");
    }
}
