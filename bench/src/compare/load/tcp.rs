//! Bytes: there and back on connections that stay or are new, or one way as many as fit.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{ANSWER, Lane, Outcome, Plan, dial, histogram, in_turns, on_this_thread};
use crate::answers::{COUNT, ECHO};

/// Bytes that are sent back.
const MESSAGE: usize = 256;
/// Bytes that are written at once to a stream.
const CHUNK: usize = 256 * 1024;

/// Messages on connections that stay.
pub(super) fn echo(target: SocketAddr, connections: usize, plan: &Plan<'_>) -> anyhow::Result<Outcome> {
    on_this_thread(async {
        let mut lanes = Vec::new();
        for _ in 0..connections {
            let mut stream = dial(target).await?;
            stream.write_u8(ECHO).await?;
            lanes.push(Kept(stream));
        }
        in_turns(lanes, 2 * MESSAGE as u64, plan).await
    })?
}

/// A message on a new connection each.
pub(super) fn new_connections(target: SocketAddr, lanes: usize, plan: &Plan<'_>) -> anyhow::Result<Outcome> {
    on_this_thread(async {
        let lanes = (0..lanes).map(|_| New(target)).collect();
        in_turns(lanes, 2 * MESSAGE as u64, plan).await
    })?
}

/// One message on a connection of its own.
pub(super) async fn once(target: SocketAddr) -> anyhow::Result<()> {
    New(target).turn().await
}

struct Kept(TcpStream);

struct New(SocketAddr);

impl Lane for Kept {
    async fn turn(&mut self) -> anyhow::Result<()> {
        self.0.write_all(&[b'w'; MESSAGE]).await?;
        let mut answer = [0; MESSAGE];
        let read = self.0.read_exact(&mut answer).await;
        read.context("bytes did not come back").map(drop)
    }
}

impl Lane for New {
    async fn turn(&mut self) -> anyhow::Result<()> {
        let mut stream = dial(self.0).await?;
        let mut message = [b'w'; MESSAGE + 1];
        message[0] = ECHO;
        stream.write_all(&message).await?;
        let mut answer = [0; MESSAGE];
        let read = stream.read_exact(&mut answer).await;
        read.context("bytes did not come back").map(drop)
    }
}

/// Writes as much as is taken, on one connection, and makes sure that all of it arrives.
pub(super) fn stream(target: SocketAddr, plan: &Plan<'_>) -> anyhow::Result<Outcome> {
    let mut stream = std::net::TcpStream::connect(target).context("cannot connect")?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(&[COUNT])?;
    let before = fill(&mut stream, plan.warm)?;
    (plan.mark)();
    let begin = Instant::now();
    let bytes = fill(&mut stream, plan.time)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 8];
    stream
        .read_exact(&mut answer)
        .context("the server did not confirm what arrived")?;
    let elapsed = begin.elapsed();
    (plan.mark)();
    ensure!(u64::from_be_bytes(answer) == before + bytes, "bytes were lost");
    Ok(Outcome {
        count: 0,
        bytes,
        elapsed,
        latency: histogram()?,
    })
}

/// Writes for `time`; gives how many bytes were taken.
fn fill(stream: &mut std::net::TcpStream, time: Duration) -> anyhow::Result<u64> {
    let chunk = vec![b'w'; CHUNK];
    let begin = Instant::now();
    let mut bytes = 0;
    while begin.elapsed() < time {
        stream.write_all(&chunk)?;
        bytes += CHUNK as u64;
    }
    Ok(bytes)
}
