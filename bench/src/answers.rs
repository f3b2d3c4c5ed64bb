//! How the application answers on a connection: HTTP/1.1, gRPC, or bytes.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::together::Together;

/// Bytes in the body of an answer to a request that has none.
pub(crate) const BODY: usize = 1024;
/// What a client says first that only sends: its bytes are counted, and their number sent back as 8 bytes, big-endian.
pub(crate) const COUNT: u8 = b'c';
/// What a client says first that wants its bytes back.
pub(crate) const ECHO: u8 = b'e';
const LONGEST_HEAD: usize = 16 * 1024;
/// Bytes that are sent back at once, at most.
const PIECE: usize = 16 * 1024;

/// One past the empty line that ends a head.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|start| start + 4)
}

/// Answers each request with a body as long as its own, or of [`BODY`] bytes when it has none.
///
/// # Errors
/// When the connection breaks, or a head is too long.
pub(crate) async fn requests(mut stream: TcpStream, together: &Together) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST_HEAD];
    let (mut response, mut answered) = (Vec::new(), 0);
    let mut filled = 0;
    loop {
        let Some(end) = end_of_head(&buffer[..filled]) else {
            if filled == buffer.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
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
            response = response_of(body);
            answered = body;
        }
        together.wait().await;
        stream.write_all(&response).await?;
        buffer.copy_within(end + here..filled, 0);
        filled -= end + here;
    }
}

fn response_of(body: usize) -> Vec<u8> {
    let mut response =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {body}\r\n\r\n").into_bytes();
    response.resize(response.len() + body, b'w');
    response
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

/// Counts bytes or sends them back, as the first one asks.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn bytes(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let read = stream.read(&mut buffer).await?;
    match buffer[..read].split_first() {
        None => Ok(()),
        Some((&ECHO, rest)) => {
            stream.write_all(rest).await?;
            echo(stream).await
        }
        Some((&COUNT, rest)) => count(stream, rest.len() as u64).await,
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends bytes back until there are no more.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

async fn count(mut stream: TcpStream, before: u64) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = before;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => total += read as u64,
        }
    }
    stream.write_all(&total.to_be_bytes()).await?;
    stream.shutdown().await
}

/// Answers gRPC calls.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn calls(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(call(request.into_body(), respond));
    }
    Ok(())
}

/// Sends every message back as it comes, so one serves unary calls and streams.
async fn call(
    mut asked: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    // Not before the first message is there: head and message then leave together.
    let mut message = asked.data().await.transpose()?;
    let mut body = respond.send_response(response, false)?;
    while let Some(data) = message {
        asked.flow_control().release_capacity(data.len())?;
        body.send_data(data, false)?;
        message = asked.data().await.transpose()?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    body.send_trailers(trailers)
}
