//! The application in the server's pod, on one thread: HTTP/1.1, gRPC, or bytes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    thread::JoinHandle,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::{
    pods::{PORT, Pair, Side},
    scenarios::Protocol,
};
use crate::{
    pin,
    server::{BODY, end_of_head},
};

/// What a client says first that only sends: its bytes are counted, and their number sent back as 8 bytes.
pub(crate) const COUNT: u8 = b'c';
/// What a client says first that wants its bytes back.
pub(crate) const ECHO: u8 = b'e';
const LONGEST_HEAD: usize = 16 * 1024;

/// Runs until it is dropped.
pub(crate) struct Apps {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Apps {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Apps {
    /// Starts what a protocol needs at the server's port.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub(crate) fn start(pods: &Pair, protocol: Protocol, core: Option<usize>) -> anyhow::Result<Self> {
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = pods.inside(Side::Server, None, || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&at.into())?;
            socket.listen(4096)?;
            socket.set_nonblocking(true)?;
            io::Result::Ok(std::net::TcpListener::from(socket))
        })?;
        let listener = listener.context("the application cannot listen")?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let serve = move || {
            pin::this_thread(core);
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, protocol) => {}
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("application".into())
            .spawn(serve)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

async fn accept(listener: std::net::TcpListener, protocol: Protocol) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            // What became of a connection is the client's to say.
            let _ = match protocol {
                Protocol::Http1 => answer_requests(stream).await.map_err(anyhow::Error::from),
                Protocol::Grpc => answer_calls(stream).await.map_err(anyhow::Error::from),
                Protocol::Tcp | Protocol::TcpPlain => answer_bytes(stream).await.map_err(anyhow::Error::from),
            };
        });
    }
}

/// Answers each request with a body as long as its own, or of 1 KiB when it has none.
async fn answer_requests(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST_HEAD];
    let (mut response, mut answered) = (Vec::new(), 0);
    let mut filled = 0;
    loop {
        let Some(end) = end_of_head(&buffer[..filled]) else {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            continue;
        };
        let length = content_length(&buffer[..end]);
        let here = length.min(filled - end);
        drain(&mut stream, length - here).await?;
        let body = if length == 0 { BODY } else { length };
        if body != answered {
            response = answer(body);
            answered = body;
        }
        stream.write_all(&response).await?;
        buffer.copy_within(end + here..filled, 0);
        filled -= end + here;
    }
}

fn answer(body: usize) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {body}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + body, b'w');
    answer
}

fn content_length(head: &[u8]) -> usize {
    let lines = head.split(|byte| *byte == b'\n');
    let values = lines.filter_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:").then_some(value)
    });
    values
        .filter_map(|value| std::str::from_utf8(value).ok()?.trim().parse().ok())
        .next()
        .unwrap_or(0)
}

async fn drain(stream: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; bytes.min(64 * 1024)];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(buffer.len());
        match stream.read(&mut buffer[..most]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read,
        }
    }
    Ok(())
}

async fn answer_bytes(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let first = stream.read_u8().await?;
    let mut total: u64 = 0;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        total += read as u64;
        if first == ECHO {
            stream.write_all(&buffer[..read]).await?;
        }
    }
    if first == COUNT {
        stream.write_all(&total.to_be_bytes()).await?;
    }
    stream.shutdown().await
}

async fn answer_calls(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(1024)
        .handshake(stream)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(answer_call(request.into_body(), respond));
    }
    Ok(())
}

/// Sends every message back as it comes, so one serves unary calls and streams.
async fn answer_call(
    mut asked: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut body = respond.send_response(response, false)?;
    while let Some(data) = asked.data().await {
        let data = data?;
        asked.flow_control().release_capacity(data.len())?;
        body.send_data(data, false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    body.send_trailers(trailers)
}
