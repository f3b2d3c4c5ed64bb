//! Requests at fixed times. Latency counts from the time at which a request was due, so a stall is not hidden by the
//! requests that it delays.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;

use super::{ANSWER, Outcome, Plan, histogram, nanos};
use crate::{answers::BODY, load, peers::HOST};

/// How far ahead the first request is, so that every thread is there in time.
const AHEAD: Duration = Duration::from_millis(20);
/// How late a sleeping thread may be woken, beside what the scheduler adds.
const SLACK_NANOS: u64 = 1000;

/// Sends `rate` requests a second, spread over the connections in turn.
pub(super) fn run(
    target: SocketAddr,
    connections: u32,
    rate: u32,
    plan: &Plan<'_>,
) -> anyhow::Result<Outcome> {
    ensure!(
        connections > 0 && rate > 0,
        "connections and rate must be positive"
    );
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(target).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        streams.push(stream);
    }
    let interval = Duration::from_secs(1) / rate;
    send(&mut streams, interval, plan.warm)?;
    (plan.mark)();
    let begin = Instant::now();
    let latency = send(&mut streams, interval, plan.time)?;
    let elapsed = begin.elapsed();
    (plan.mark)();
    Ok(Outcome {
        count: latency.len(),
        bytes: latency.len() * BODY as u64,
        elapsed,
        latency,
    })
}

/// A thread for each connection, each with its share of the requests.
fn send(streams: &mut [TcpStream], interval: Duration, time: Duration) -> anyhow::Result<Histogram<u64>> {
    let count = u32::try_from(streams.len()).context("too many connections")?;
    let begin = Instant::now() + AHEAD;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .zip(streams)
            .map(|(index, stream)| {
                scope.spawn(move || {
                    // Where it cannot be set, latencies are up to 50 µs too long for every way alike.
                    let _ = nix::sys::prctl::set_timerslack(SLACK_NANOS);
                    one(stream, begin + interval * index, interval * count, begin + time)
                })
            })
            .collect();
        let mut latency = histogram()?;
        for thread in threads {
            match thread.join() {
                Ok(one) => latency.add(one?)?,
                Err(_) => bail!("a load thread panicked"),
            }
        }
        Ok(latency)
    })
}

fn one(
    stream: &mut TcpStream,
    first: Instant,
    interval: Duration,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let request = load::request(HOST);
    let mut latency = histogram()?;
    let mut buffer = vec![0; 8 * 1024];
    let mut due = first;
    while due < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(&request)?;
        let mut filled = 0;
        while !load::complete(&buffer[..filled])? {
            let read = stream.read(&mut buffer[filled..])?;
            ensure!(read > 0, "the connection was closed while a response was awaited");
            filled += read;
        }
        latency.saturating_record(nanos(due.elapsed()));
        due += interval;
    }
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_stall_counts_for_every_request_that_was_due() {
        const STALL: Duration = Duration::from_millis(200);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let serving = thread::spawn(move || {
            let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", "w".repeat(BODY));
            let mut request = vec![0; load::request(HOST).len()];
            let mut stall = STALL;
            while server.read_exact(&mut request).is_ok() {
                thread::sleep(std::mem::take(&mut stall));
                server.write_all(answer.as_bytes()).unwrap();
            }
        });
        let interval = Duration::from_millis(10);
        let latency = send(std::slice::from_mut(&mut client), interval, STALL).unwrap();
        drop(client);
        serving.join().unwrap();
        // Twenty were due within the stall, each 10 ms later than the one before.
        assert_eq!(latency.len(), 20);
        let late = latency.count_between(50_000_000, super::super::LONGEST);
        assert!(late >= 14, "{late} requests were late");
    }
}
