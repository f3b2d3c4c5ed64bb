//! HTTP/1.1: requests on connections that stay, or each on one of its own.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Lane, Outcome, Plan, dial, in_turns, on_this_thread};
use crate::{
    answers::{BODY, end_of_head},
    load,
    peers::HOST,
};

const BUFFER: usize = 64 * 1024;

/// Every connection sends the next request when the last one is answered.
pub(super) fn closed(
    target: SocketAddr,
    connections: usize,
    body: usize,
    plan: &Plan<'_>,
) -> anyhow::Result<Outcome> {
    on_this_thread(async {
        let mut lanes = Vec::new();
        for _ in 0..connections {
            lanes.push(Kept {
                stream: dial(target).await?,
                request: request(body),
                body,
                buffer: vec![0; if body == 0 { 8 * 1024 } else { BUFFER }],
            });
        }
        let bytes = if body == 0 { BODY } else { 2 * body };
        in_turns(lanes, bytes as u64, plan).await
    })?
}

/// Every request is on a connection of its own.
pub(super) fn new_connections(target: SocketAddr, lanes: usize, plan: &Plan<'_>) -> anyhow::Result<Outcome> {
    on_this_thread(async {
        let lanes = (0..lanes).map(|_| New(target)).collect();
        in_turns(lanes, BODY as u64, plan).await
    })?
}

/// One request on a connection of its own.
pub(super) async fn once(target: SocketAddr) -> anyhow::Result<()> {
    New(target).turn().await
}

struct Kept {
    stream: TcpStream,
    request: Vec<u8>,
    body: usize,
    buffer: Vec<u8>,
}

struct New(SocketAddr);

impl Lane for Kept {
    async fn turn(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request).await?;
        let expected = if self.body == 0 { BODY } else { self.body };
        read_answer(&mut self.stream, &mut self.buffer, expected).await
    }
}

impl Lane for New {
    async fn turn(&mut self) -> anyhow::Result<()> {
        let mut stream = dial(self.0).await?;
        stream.write_all(&request(0)).await?;
        read_answer(&mut stream, &mut [0; 4 * 1024], BODY).await
    }
}

fn request(body: usize) -> Vec<u8> {
    if body == 0 {
        return load::request(HOST);
    }
    let mut request = format!(
        "POST /anything HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: weir-bench\r\naccept: */*\r\n\
         content-length: {body}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + body, b'w');
    request
}

/// Reads a whole answer and no more.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8], body: usize) -> anyhow::Result<()> {
    let mut filled = 0;
    let end = loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the connection was closed while a response was awaited");
        filled += read;
        if let Some(end) = end_of_head(&buffer[..filled]) {
            break end;
        }
    };
    load::good(&buffer[..end])?;
    let mut left = body
        .checked_sub(filled - end)
        .context("a response is longer than it should be")?;
    while left > 0 {
        let read = stream.read(buffer).await?;
        ensure!(read > 0, "the connection was closed within a response");
        left = left
            .checked_sub(read)
            .context("a response is longer than it should be")?;
    }
    Ok(())
}
