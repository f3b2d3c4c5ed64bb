//! gRPC: unary calls, and streams that carry messages there and back.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use http::Request;

use super::{Lane, Outcome, Plan, dial, in_turns, on_this_thread};
use crate::{gathered::Gathered, peers::HOST};

/// A message with its prefix of five bytes.
const MESSAGE: usize = 256;
const WINDOW: u32 = 1 << 20;

/// Unary calls, `each` at a time on each connection.
pub(super) fn calls(
    target: SocketAddr,
    connections: usize,
    each: usize,
    plan: &Plan<'_>,
) -> anyhow::Result<Outcome> {
    run(target, (connections, each), plan, async |sender| {
        Call::new(sender)
    })
}

/// Streams, `each` on each connection, with one message under way on each.
pub(super) fn messages(
    target: SocketAddr,
    connections: usize,
    each: usize,
    plan: &Plan<'_>,
) -> anyhow::Result<Outcome> {
    run(target, (connections, each), plan, Messages::open)
}

/// Opens connections with lanes on each, and runs them.
fn run<L: Lane + 'static>(
    target: SocketAddr,
    (connections, each): (usize, usize),
    plan: &Plan<'_>,
    open: impl AsyncFn(SendRequest<Bytes>) -> anyhow::Result<L>,
) -> anyhow::Result<Outcome> {
    on_this_thread(async {
        let mut lanes = Vec::new();
        for _ in 0..connections {
            let sender = connect(target).await?;
            for _ in 0..each {
                lanes.push(open(sender.clone()).await?);
            }
        }
        in_turns(lanes, 2 * MESSAGE as u64, plan).await
    })?
}

/// One call on a connection of its own.
pub(super) async fn once(target: SocketAddr) -> anyhow::Result<()> {
    Call::new(connect(target).await?)?.turn().await
}

async fn connect(target: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let (sender, connection) = h2::client::Builder::new()
        .initial_connection_window_size(WINDOW)
        .handshake(Gathered(dial(target).await?))
        .await?;
    // A connection that breaks is seen by its calls.
    tokio::spawn(connection);
    Ok(sender)
}

fn request(method: &str) -> anyhow::Result<Request<()>> {
    let request = Request::post(format!("http://{HOST}/bench.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "weir-bench");
    Ok(request.body(())?)
}

fn message() -> Bytes {
    const PREFIXED: [u8; MESSAGE] = {
        let mut message = [b'w'; MESSAGE];
        message[0] = 0;
        message[1] = 0;
        message[2] = 0;
        message[3] = 0;
        message[4] = 251;
        message
    };
    Bytes::from_static(&PREFIXED)
}

struct Call {
    sender: SendRequest<Bytes>,
    request: Request<()>,
}

impl Call {
    fn new(sender: SendRequest<Bytes>) -> anyhow::Result<Self> {
        let request = request("Say")?;
        Ok(Self { sender, request })
    }
}

impl Lane for Call {
    async fn turn(&mut self) -> anyhow::Result<()> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(self.request.clone(), false)?;
        body.send_data(message(), true)?;
        let response = response.await?;
        ensure!(
            response.status() == 200,
            "a call was answered {}",
            response.status()
        );
        let mut answer = response.into_body();
        let mut bytes = 0;
        while let Some(data) = answer.data().await {
            let data = data?;
            bytes += data.len();
            answer.flow_control().release_capacity(data.len())?;
        }
        let trailers = answer.trailers().await?.context("an answer has no trailers")?;
        ensure!(
            trailers.get("grpc-status").is_some_and(|status| status == "0"),
            "a call failed: {trailers:?}"
        );
        ensure!(bytes == MESSAGE, "an answer has {bytes} bytes");
        Ok(())
    }
}

struct Messages {
    asked: SendStream<Bytes>,
    answered: RecvStream,
}

impl Messages {
    async fn open(sender: SendRequest<Bytes>) -> anyhow::Result<Self> {
        let mut sender = sender.ready().await?;
        let (response, mut asked) = sender.send_request(request("Stream")?, false)?;
        asked.send_data(message(), false)?;
        let response = response.await?;
        ensure!(
            response.status() == 200,
            "a stream was answered {}",
            response.status()
        );
        let mut stream = Self {
            asked,
            answered: response.into_body(),
        };
        stream.receive().await?;
        Ok(stream)
    }

    async fn receive(&mut self) -> anyhow::Result<()> {
        let mut bytes = 0;
        while bytes < MESSAGE {
            let data = self.answered.data().await.context("a stream ended")??;
            bytes += data.len();
            self.answered.flow_control().release_capacity(data.len())?;
        }
        ensure!(bytes == MESSAGE, "more bytes came back than were sent");
        Ok(())
    }
}

impl Lane for Messages {
    async fn turn(&mut self) -> anyhow::Result<()> {
        self.asked.send_data(message(), false)?;
        self.receive().await
    }
}
