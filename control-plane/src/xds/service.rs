//! The aggregated discovery service as HTTP: which method is called, and messages in gRPC's frames.
//!
//! A response is written to bytes of just its size. The server that is generated from the `.proto` files would keep
//! a buffer as large as its largest response for each stream, which is a third of what a sidecar costs.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, metadata::GRPC_CONTENT_TYPE, server::NamedService};
use tower::Service;

use super::{
    Hub, Peer, delta,
    machine::Machine,
    requests::Requests,
    server::{self, Frames},
    sotw,
};

/// Compressed or not, and the length.
const PREFIX: usize = 5;

/// The aggregated discovery service.
#[derive(Clone)]
pub struct Discovery {
    hub: Arc<Hub>,
    stop: CancellationToken,
}

impl Discovery {
    /// Serves the hub's mesh until told to stop.
    pub fn new(hub: Arc<Hub>, stop: CancellationToken) -> Self {
        Self { hub, stop }
    }

    fn start<M: Machine>(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
        let requests = Requests::new(request.into_body());
        let frames = server::open::<M>(&self.hub, peer, requests, self.stop.clone())?;
        let mut response = http::Response::new(body(frames));
        response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
        Ok(response)
    }
}

impl NamedService for Discovery {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next();
        let started = match method {
            Some("DeltaAggregatedResources") => self.start::<delta::Session>(request),
            Some("StreamAggregatedResources") => self.start::<sotw::Session>(request),
            _ => Err(Status::unimplemented("no such method")),
        };
        ready(Ok(started.unwrap_or_else(Status::into_http)))
    }
}

/// A message in its frame.
pub(super) fn frame(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).map_err(|_| Status::internal("a response of more than 4 GiB"))?;
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(prefix);
    let written = message.encode(&mut frame);
    written.map_err(|error| Status::internal(error.to_string()))?;
    Ok(frame.freeze())
}

/// Frames, and the status at the end.
fn body(frames: Frames) -> Body {
    let end = stream::once(async { Err(Status::ok("")) });
    let ended = ReceiverStream::new(frames).chain(end).map(|next| {
        Ok::<_, Infallible>(match next {
            Ok(frame) => Frame::data(frame),
            Err(status) => Frame::trailers(trailers(&status)),
        })
    });
    Body::new(StreamBody::new(ended))
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // A message that cannot be a header. The code is all that can be told.
        let code = HeaderValue::from(i32::from(status.code()));
        trailers.insert(Status::GRPC_STATUS, code);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc;
    use weir_xds::envoy::service::discovery::v3::DeltaDiscoveryResponse;

    use super::*;

    #[tokio::test]
    async fn a_body_is_frames_and_then_one_status() {
        let message = DeltaDiscoveryResponse {
            nonce: "7".to_owned(),
            ..DeltaDiscoveryResponse::default()
        };
        let framed = frame(&message).unwrap();
        assert_eq!(framed[..PREFIX], [0, 0, 0, 0, 3]);
        assert_eq!(
            DeltaDiscoveryResponse::decode(&framed[PREFIX..]).unwrap(),
            message
        );
        let (sender, receiver) = mpsc::channel(2);
        sender.send(Ok(framed.clone())).await.unwrap();
        sender.send(Err(Status::aborted("no more"))).await.unwrap();
        drop(sender);
        let collected = body(receiver).collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert_eq!(trailers[Status::GRPC_MESSAGE], "no%20more");
        assert_eq!(collected.to_bytes(), framed);
    }

    #[tokio::test]
    async fn a_stream_that_ends_without_a_word_ended_well() {
        let (sender, receiver) = mpsc::channel(1);
        drop(sender);
        let collected = body(receiver).collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()[Status::GRPC_STATUS], "0");
    }
}
