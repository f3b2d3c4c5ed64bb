//! The client: a fixed number of requests, so many at a time.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use h2::client::SendRequest;
use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::{application::Serves, load, peers::HOST};

/// How long an answer may take; under valgrind all is slow.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes that are echoed, and those of a gRPC message with its prefix.
const MESSAGE: usize = 256;

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A GET over HTTP/1.1, on a connection that stays.
    Http1,
    /// A unary call over HTTP/2; all share one connection.
    Grpc,
    /// Bytes there and back, on a connection that stays.
    Echo,
    /// A new connection, with bytes there and back.
    Connect,
}

impl Kind {
    /// What the application serves to so many at a time.
    pub(super) fn served(self, concurrency: u32) -> Serves {
        match self {
            // All of them are under way at a time, so that all but the first few share a connection.
            Self::Http1 => Serves::RequestsTogether(concurrency as usize),
            Self::Grpc => Serves::Calls,
            Self::Echo | Self::Connect => Serves::Echo,
        }
    }

    /// Whether the sidecars see HTTP.
    pub(super) fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Grpc)
    }
}

/// One client with its connections.
pub(super) struct Client {
    runtime: Runtime,
    lanes: Vec<Lane>,
}

/// Sends one request after the other.
enum Lane {
    Http1(TcpStream, Vec<u8>),
    Grpc(SendRequest<Bytes>),
    Echo(TcpStream),
    Connect(SocketAddr),
}

impl Client {
    /// A client whose connections are open.
    ///
    /// # Errors
    /// When nothing listens.
    pub(super) fn connect(target: SocketAddr, kind: Kind, concurrency: u32) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let lanes = runtime.block_on(async {
            let mut lanes = Vec::new();
            for _ in 0..concurrency {
                let shared = match lanes.first() {
                    Some(Lane::Grpc(sender)) => Some(Lane::Grpc(sender.clone())),
                    _ => None,
                };
                lanes.push(match shared {
                    Some(lane) => lane,
                    None => Lane::open(target, kind).await?,
                });
            }
            anyhow::Ok(lanes)
        })?;
        Ok(Self { runtime, lanes })
    }

    /// Sends requests, as many on each lane, and waits for the answers. All lanes send at once, and again when all are
    /// answered: how many requests share a read or a write is then the same in every run.
    ///
    /// # Errors
    /// When an answer is not what it should be.
    pub(super) fn send(&mut self, requests: u32) -> anyhow::Result<()> {
        let rounds = requests as usize / self.lanes.len();
        self.runtime.block_on(async {
            for _ in 0..rounds {
                let answered = try_join_all(self.lanes.iter_mut().map(Lane::send));
                timeout(ANSWER, answered).await.context("no answer in time")??;
            }
            Ok(())
        })
    }
}

impl Lane {
    async fn open(target: SocketAddr, kind: Kind) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::Http1 => Self::Http1(dial(target).await?, load::request(HOST)),
            Kind::Echo => Self::Echo(dial(target).await?),
            Kind::Connect => Self::Connect(target),
            Kind::Grpc => {
                let (sender, connection) = h2::client::handshake(dial(target).await?).await?;
                tokio::spawn(connection);
                Self::Grpc(sender)
            }
        })
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Http1(stream, request) => get(stream, request).await,
            Self::Grpc(sender) => call(sender).await,
            Self::Echo(stream) => echo(stream).await,
            Self::Connect(target) => {
                let mut stream = dial(*target).await?;
                echo(&mut stream).await?;
                stream.shutdown().await?;
                let rest = stream.read(&mut [0]).await?;
                ensure!(rest == 0, "more bytes came back than were sent");
                Ok(())
            }
        }
    }
}

async fn dial(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(target).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn get(stream: &mut TcpStream, request: &[u8]) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    let mut buffer = [0; 8 * 1024];
    let mut filled = 0;
    while !load::complete(&buffer[..filled])? {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the connection was closed while a response was awaited");
        filled += read;
    }
    Ok(())
}

async fn call(sender: &mut SendRequest<Bytes>) -> anyhow::Result<()> {
    let request = Request::post(format!("http://{HOST}/bench.Echo/Say"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "weir-bench")
        .header("grpc-timeout", "10S")
        .body(())?;
    let mut sender = sender.clone().ready().await?;
    let (response, mut body) = sender.send_request(request, false)?;
    body.send_data(Bytes::from_static(&[0; MESSAGE]), true)?;
    let response = response.await?;
    ensure!(
        response.status() == 200,
        "a call was answered {}",
        response.status()
    );
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        bytes += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    ensure!(bytes == MESSAGE, "an answer has {bytes} bytes");
    let trailers = body.trailers().await?.context("an answer has no trailers")?;
    ensure!(
        trailers.get("grpc-status").is_some_and(|status| status == "0"),
        "a call failed"
    );
    Ok(())
}

async fn echo(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(&[b'w'; MESSAGE]).await?;
    let mut buffer = [0; MESSAGE];
    stream
        .read_exact(&mut buffer)
        .await
        .context("bytes did not come back")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::Application;

    #[test]
    fn every_kind_of_request_is_answered() {
        for kind in [Kind::Http1, Kind::Grpc, Kind::Echo, Kind::Connect] {
            let application = Application::local(kind.served(1)).unwrap();
            let mut client = Client::connect(application.address(), kind, 3).unwrap();
            client.send(12).unwrap();
        }
    }
}
