//! The application behind the proxies: a minimal HTTP/1.1 server and a sink for bytes, on one thread.

use std::{io, net::SocketAddr};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::pin;

/// Bytes in each response body.
pub(crate) const BODY: usize = 1024;

/// Where the application listens. It runs until the process ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    /// HTTP/1.1: every request is answered 200 with [`BODY`] bytes.
    pub(crate) http: SocketAddr,
    /// Bytes are read to their end, then their number is sent back as 8 bytes, big-endian.
    pub(crate) sink: SocketAddr,
}

/// Starts it on a thread of its own, pinned to `core` when given.
///
/// # Errors
/// When no port can be bound.
pub(crate) fn start(core: Option<usize>) -> anyhow::Result<Server> {
    let bind = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        io::Result::Ok((listener.local_addr()?, listener))
    };
    let (http, http_listener) = bind().context("the server cannot listen")?;
    let (sink, sink_listener) = bind().context("the sink cannot listen")?;
    std::thread::Builder::new().name("server".into()).spawn(move || {
        pin::this_thread(core);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async move {
            tokio::spawn(accept(TcpListener::from_std(sink_listener)?, |stream| {
                drop(tokio::spawn(sink_bytes(stream)))
            }));
            accept(TcpListener::from_std(http_listener)?, |stream| {
                drop(tokio::spawn(serve(stream)))
            })
            .await;
            io::Result::Ok(())
        })
    })?;
    Ok(Server { http, sink })
}

async fn accept(listener: TcpListener, handle: impl Fn(TcpStream)) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                handle(stream);
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut response =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    response.resize(response.len() + BODY, b'w');
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        // Requests have no body, so each ends with its head.
        while let Some(end) = end_of_head(&buffer[..filled]) {
            stream.write_all(&response).await?;
            buffer.copy_within(end..filled, 0);
            filled -= end;
        }
        if filled == buffer.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

async fn sink_bytes(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total: u64 = 0;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        total += read as u64;
    }
    stream.write_all(&total.to_be_bytes()).await?;
    stream.shutdown().await
}

/// One past the empty line that ends a head.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|start| start + 4)
}
