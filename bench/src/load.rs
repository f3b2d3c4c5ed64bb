//! The load: a closed loop for the highest rate, an open loop for latency at a given rate, and a byte stream.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    pin,
    server::{BODY, end_of_head},
};

/// What one run of requests gave.
pub(crate) struct Requests {
    /// Requests answered.
    pub(crate) count: u64,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// Latencies in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// Largest latency told apart: one minute.
const LONGEST: u64 = 60_000_000_000;

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1000, LONGEST, 3)?)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(LONGEST).min(LONGEST)
}

/// A GET of [`BODY`] bytes.
pub(crate) fn request(host: &str) -> Vec<u8> {
    format!("GET /anything HTTP/1.1\r\nhost: {host}\r\nuser-agent: weir-bench\r\naccept: */*\r\n\r\n")
        .into_bytes()
}

/// Every connection sends the next request as soon as the last is answered.
///
/// # Errors
/// When a connection breaks or an answer is not 200 with the whole body.
pub(crate) fn closed(
    address: SocketAddr,
    host: &str,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Requests> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let request = request(host);
    runtime.block_on(async move {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = tokio::net::TcpStream::connect(address)
                .await
                .context("cannot connect")?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let start = Instant::now();
        let tasks: Vec<_> = streams
            .into_iter()
            .map(|stream| tokio::spawn(one_closed(stream, request.clone(), start + time)))
            .collect();
        let mut total = histogram()?;
        for task in tasks {
            total.add(task.await??)?;
        }
        Ok(Requests {
            count: total.len(),
            elapsed: start.elapsed(),
            latency: total,
        })
    })
}

async fn one_closed(
    mut stream: tokio::net::TcpStream,
    request: Vec<u8>,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = histogram()?;
    let mut buffer = vec![0; 8 * 1024];
    let mut begin = Instant::now();
    while begin < end {
        stream.write_all(&request).await?;
        let mut filled = 0;
        while !complete(&buffer[..filled])? {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "the connection was closed while a response was awaited");
            filled += read;
        }
        let now = Instant::now();
        latency.saturating_record(nanos(now - begin));
        begin = now;
    }
    Ok(latency)
}

/// Requests at fixed times, `rate` a second, spread over the connections in turn. Latency counts from the time at
/// which a request was due, so a stall is not hidden by the requests that it delays.
///
/// # Errors
/// When a connection breaks or an answer is not 200 with the whole body.
pub(crate) fn open(
    address: SocketAddr,
    host: &str,
    connections: u32,
    rate: u32,
    time: Duration,
    core: Option<usize>,
) -> anyhow::Result<Requests> {
    let request = request(host);
    let interval = Duration::from_secs(1) / rate;
    let begin = Instant::now() + Duration::from_millis(100);
    let mut threads = Vec::new();
    for index in 0..connections {
        let request = request.clone();
        let mut stream = TcpStream::connect(address).context("cannot connect")?;
        stream.set_nodelay(true)?;
        threads.push(thread::spawn(move || {
            pin::this_thread(core);
            let _ = nix::sys::prctl::set_timerslack(1000);
            let first = begin + interval * index;
            one_open(&mut stream, &request, first, interval * connections, begin + time)
        }));
    }
    let mut total = histogram()?;
    for thread in threads {
        match thread.join() {
            Ok(latency) => total.add(latency?)?,
            Err(_) => bail!("a load thread panicked"),
        }
    }
    Ok(Requests {
        count: total.len(),
        elapsed: begin.elapsed(),
        latency: total,
    })
}

fn one_open(
    stream: &mut TcpStream,
    request: &[u8],
    first: Instant,
    interval: Duration,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = histogram()?;
    let mut buffer = vec![0; 8 * 1024];
    let mut due = first;
    while due < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request)?;
        let mut filled = 0;
        while !complete(&buffer[..filled])? {
            let read = stream.read(&mut buffer[filled..])?;
            ensure!(read > 0, "the connection was closed while a response was awaited");
            filled += read;
        }
        latency.saturating_record(nanos(due.elapsed()));
        due += interval;
    }
    Ok(latency)
}

/// One request on a connection of its own, to see whether the way is open; gives the status.
///
/// # Errors
/// When there is no answer.
pub(crate) fn once(address: SocketAddr, host: &str) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&request(host))?;
    let mut buffer = vec![0; 8 * 1024];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        ensure!(read > 0, "the connection was closed before the response");
        filled += read;
        if end_of_head(&buffer[..filled]).is_some() {
            return status(&buffer[..filled]);
        }
    }
}

/// Bytes are written for `time`; gives how many arrived each second.
///
/// # Errors
/// When the connection breaks or not all bytes arrive.
pub(crate) fn stream(address: SocketAddr, time: Duration) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(address)?;
    let chunk = vec![b'w'; 256 * 1024];
    let begin = Instant::now();
    let mut sent: u64 = 0;
    while begin.elapsed() < time {
        stream.write_all(&chunk)?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = [0; 8];
    stream
        .read_exact(&mut answer)
        .context("the sink did not confirm")?;
    ensure!(u64::from_be_bytes(answer) == sent, "bytes were lost");
    Ok(sent as f64 / begin.elapsed().as_secs_f64())
}

/// Whether a whole response is there.
///
/// # Errors
/// When it is not 200 or longer than it should be.
pub(crate) fn complete(bytes: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = end_of_head(bytes) else {
        return Ok(false);
    };
    let status = status(bytes)?;
    ensure!(status == 200, "a request was answered {status}");
    if bytes.len() < end + BODY {
        return Ok(false);
    }
    ensure!(
        bytes.len() == end + BODY,
        "a response is longer than it should be"
    );
    Ok(true)
}

fn status(bytes: &[u8]) -> anyhow::Result<u16> {
    let text = bytes
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    text.and_then(|digits| digits.parse().ok())
        .context("not an HTTP/1.1 response")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server;

    #[test]
    fn every_kind_of_load_reaches_the_server() {
        let server = server::start(None).unwrap();
        assert_eq!(once(server.http, "a").unwrap(), 200);
        let time = Duration::from_millis(200);
        assert!(closed(server.http, "a", 4, time).unwrap().count > 0);
        let open = open(server.http, "a", 4, 100, time, None).unwrap();
        assert_eq!(open.count, 20);
        assert!(stream(server.sink, time).unwrap() > 0.0);
    }

    #[test]
    fn only_whole_good_responses_count() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\n";
        assert!(!complete(head.as_bytes()).unwrap());
        assert!(complete(head.replace("200", "503").as_bytes()).is_err());
        let whole = format!("{head}{}", "w".repeat(BODY));
        assert!(complete(whole.as_bytes()).unwrap());
        assert!(complete(whole.replace("200", "503").as_bytes()).is_err());
    }
}
