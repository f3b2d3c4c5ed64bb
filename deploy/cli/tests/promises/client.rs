//! What an application says over a connection.

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{HeaderMap, Request, Response, StatusCode, body::Bytes, body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{scene::EXCHANGE, world::within};

/// The name of the reason for which a sidecar refuses.
const REASON: &str = "x-weir-reason";
/// Largest head that [`head`] reads.
const MAX_HEAD: usize = 64 * 1024;

/// A whole response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    /// Reads a response to its end.
    pub(crate) async fn read(response: Response<Incoming>) -> anyhow::Result<Self> {
        let (head, body) = response.into_parts();
        let body = within(EXCHANGE, "the body", body.collect()).await??.to_bytes();
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    /// A header, empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Why a sidecar refused; empty when none did.
    pub(crate) fn reason(&self) -> &str {
        self.header(REASON)
    }

    /// An error unless the status is this one.
    pub(crate) fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(
            self.status == status,
            "{} instead of {status} ({}): {}",
            self.status,
            self.reason(),
            self.body
        );
        Ok(self)
    }
}

/// An HTTP/1.1 connection for one request after the other.
pub(crate) struct Http1<B>(conn::http1::SendRequest<B>);

impl<B> Http1<B>
where
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Begins to speak HTTP/1.1.
    pub(crate) async fn new(stream: TcpStream) -> anyhow::Result<Self> {
        let mut builder = conn::http1::Builder::new();
        builder.max_buf_size(1 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends a request; the response's body is still to come.
    pub(crate) async fn send(&mut self, request: Request<B>) -> anyhow::Result<Response<Incoming>> {
        let exchange = async {
            self.0.ready().await?;
            self.0.send_request(request).await
        };
        within(EXCHANGE, "an answer", exchange)
            .await?
            .context("no answer")
    }
}

impl Http1<Empty<Bytes>> {
    /// Asks for `/` and reads the whole answer, which must be 200.
    pub(crate) async fn ask(&mut self, host: &str) -> anyhow::Result<Reply> {
        let request = Request::get("/").header("host", host).body(Empty::new())?;
        Reply::read(self.send(request).await?).await?.expect(200)
    }
}

/// An HTTP/2 connection with prior knowledge.
pub(crate) async fn h2c(stream: TcpStream) -> anyhow::Result<conn::http2::SendRequest<Full<Bytes>>> {
    let handshake = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = within(EXCHANGE, "the HTTP/2 preface", handshake).await??;
    tokio::spawn(connection);
    Ok(sender)
}

/// Asks for a path and reads the whole answer.
pub(crate) async fn get(stream: TcpStream, host: &str, path: &str) -> anyhow::Result<Reply> {
    request(stream, Request::get(path).header("host", host)).await
}

/// Sends a request without a body and reads the whole answer.
pub(crate) async fn request(
    stream: TcpStream,
    request: hyper::http::request::Builder,
) -> anyhow::Result<Reply> {
    let mut connection = Http1::new(stream).await?;
    let response = connection.send(request.body(Empty::<Bytes>::new())?).await?;
    Reply::read(response).await
}

/// Writes bytes.
pub(crate) async fn write(stream: &mut TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    within(EXCHANGE, "to write", stream.write_all(bytes))
        .await?
        .context("cannot write")
}

/// Reads just so many bytes.
pub(crate) async fn read(stream: &mut TcpStream, count: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    within(EXCHANGE, "to read", stream.read_exact(&mut bytes))
        .await?
        .context("the connection ended too early")?;
    Ok(bytes)
}

/// Reads to the end; an error also ends the connection.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let _reset = within(EXCHANGE, "the end", stream.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

/// Reads an HTTP/1.1 head, its empty line included.
pub(crate) async fn head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(read(stream, 1).await?);
        ensure!(head.len() < MAX_HEAD, "a head without end");
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Sends bytes and reads as many back; an error unless they are the same.
pub(crate) async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    write(stream, bytes).await?;
    let back = read(stream, bytes.len()).await?;
    ensure!(back == bytes, "{back:?} came back instead of {bytes:?}");
    Ok(())
}

/// An error unless nothing at all comes back for `bytes` and the connection ends.
pub(crate) async fn refused(dialled: anyhow::Result<TcpStream>, bytes: &[u8]) -> anyhow::Result<()> {
    let Ok(mut stream) = dialled else {
        return Ok(());
    };
    let _reset = write(&mut stream, bytes).await;
    let answer = read_to_end(&mut stream).await?;
    ensure!(
        answer.is_empty(),
        "{:?} came back",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}
