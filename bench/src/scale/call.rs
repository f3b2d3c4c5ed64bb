//! One delta stream over HTTP/2: gRPC's framing, and nothing else of it, so that thousands fit into a process.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{Connection, ResponseFuture},
};
use http::{HeaderMap, Request};
use prost::Message as _;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use weir_xds::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::{manifests::SYSTEM, wire};

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Compressed or not, and the length.
const PREFIX: usize = 5;
/// The largest response that is taken, in bytes.
const LARGEST: usize = 4 << 20;

/// What must be polled for the stream to go on.
pub(super) type Driver = Connection<TlsStream<wire::Counted>, Bytes>;

/// The two directions of a stream.
pub(super) struct Call {
    send: SendStream<Bytes>,
    head: Option<ResponseFuture>,
    body: Option<RecvStream>,
    unread: BytesMut,
}

/// Connects and opens the stream. Nothing happens on it unless the driver is polled.
///
/// # Errors
/// When the controller cannot be reached or proven.
pub(super) async fn open(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    bytes: Arc<wire::Bytes>,
) -> anyhow::Result<(Call, Driver)> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(format!("weir-controller.{SYSTEM}.svc"))?;
    let counted = wire::Counted { stream, bytes };
    let tls = TlsConnector::from(tls)
        .connect(name, counted)
        .await
        .context("TLS")?;
    let (mut requests, driver) = h2::client::handshake(tls).await.context("HTTP/2")?;
    let request = Request::post(format!("https://weir-controller{METHOD}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (head, send) = requests.send_request(request, false)?;
    let call = Call {
        send,
        head: Some(head),
        body: None,
        unread: BytesMut::new(),
    };
    Ok((call, driver))
}

impl Call {
    /// # Errors
    /// When the stream has ended.
    pub(super) fn send(&mut self, request: &DeltaDiscoveryRequest) -> anyhow::Result<()> {
        let length = request.encoded_len();
        let mut frame = BytesMut::with_capacity(PREFIX + length);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(length)?);
        request.encode(&mut frame)?;
        Ok(self.send.send_data(frame.freeze(), false)?)
    }

    /// The next response. May be given up and called again.
    ///
    /// # Errors
    /// When the stream has ended, with the reason.
    pub(super) async fn next(&mut self) -> anyhow::Result<DeltaDiscoveryResponse> {
        loop {
            if let Some(response) = take(&mut self.unread)? {
                return Ok(response);
            }
            let body = match &mut self.body {
                Some(body) => body,
                none => {
                    let head = self.head.as_mut().context("the stream is at its end")?.await;
                    self.head = None;
                    let head = head.context("no answer")?;
                    if head.headers().contains_key("grpc-status") {
                        return Err(status(head.headers()));
                    }
                    none.insert(head.into_body())
                }
            };
            match body.data().await {
                Some(chunk) => {
                    let chunk = chunk.context("the stream broke")?;
                    body.flow_control().release_capacity(chunk.len())?;
                    self.unread.extend_from_slice(&chunk);
                }
                None => {
                    let trailers = body.trailers().await.context("the stream broke")?;
                    return Err(status(&trailers.unwrap_or_default()));
                }
            }
        }
    }
}

fn take(unread: &mut BytesMut) -> anyhow::Result<Option<DeltaDiscoveryResponse>> {
    let Some(length) = unread.get(1..PREFIX) else {
        return Ok(None);
    };
    let length = length
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length > LARGEST {
        bail!("a response of {length} bytes, more than gRPC clients take");
    }
    if unread.len() < PREFIX + length {
        return Ok(None);
    }
    unread.advance(PREFIX);
    let message = unread.split_to(length);
    Ok(Some(DeltaDiscoveryResponse::decode(message)?))
}

fn status(trailers: &HeaderMap) -> anyhow::Error {
    let text = |name| {
        trailers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("none")
    };
    anyhow::anyhow!(
        "ended with grpc-status {}: {}",
        text("grpc-status"),
        text("grpc-message")
    )
}
