//! HTTP/2 and gRPC go through a pair of sidecars as they came.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use bytes::Bytes;
use futures::{StreamExt, channel::mpsc};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pair::{Pair, soon};
use tokio::net::TcpStream;

type Frames = mpsc::UnboundedReceiver<Result<Frame<Bytes>, std::convert::Infallible>>;
type Streaming = StreamBody<Frames>;

/// An application that sends each frame of the request back, and then trailers.
async fn echo(request: Request<Incoming>) -> Result<Response<Streaming>, std::convert::Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    assert_eq!(
        request.uri().authority().map(|authority| authority.as_str()),
        Some("shop.example")
    );
    assert_eq!(request.headers()["te"], "trailers");
    let (sender, frames) = mpsc::unbounded();
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            let _ = sender.unbounded_send(Ok(frame));
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = sender.unbounded_send(Ok(Frame::trailers(trailers)));
    });
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(StreamBody::new(frames)).unwrap())
}

fn serve(pair: Pair) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = pair.application.accept().await {
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(echo)),
            );
        }
    });
}

async fn client(address: std::net::SocketAddr) -> SendRequest<Streaming> {
    let stream = soon(TcpStream::connect(address)).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = soon(handshake).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn call() -> (
    mpsc::UnboundedSender<Result<Frame<Bytes>, std::convert::Infallible>>,
    Request<Streaming>,
) {
    let (sender, frames) = mpsc::unbounded();
    let request = Request::post("http://shop.example/shop.Shop/Buy")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(frames))
        .unwrap();
    (sender, request)
}

#[tokio::test]
async fn grpc_streams_both_ways_and_keeps_its_trailers() {
    let pair = Pair::start().await;
    let address = pair.http;
    serve(pair);
    let mut sender = client(address).await;
    let (upload, request) = call();
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body().into_data_stream();
    for message in ["one", "two"] {
        upload
            .unbounded_send(Ok(Frame::data(Bytes::from_static(message.as_bytes()))))
            .unwrap();
        assert_eq!(soon(body.next()).await.unwrap().unwrap(), message);
    }

    let (upload, request) = call();
    let response = soon(sender.send_request(request)).await.unwrap();
    drop(upload);
    let collected = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_grpc_client_reads_a_refusal_as_a_status() {
    let pair = Pair::start().await;
    let address = pair.inbound;
    drop(pair.application);
    let mut sender = client(address).await;
    let (_upload, request) = call();
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["x-weir-reason"], "connect_failed");
}

#[tokio::test]
async fn bodies_larger_than_the_windows_pass() {
    let pair = Pair::start().await;
    let address = pair.http;
    serve(pair);
    let mut sender = client(address).await;
    let (upload, request) = call();
    let response = soon(sender.send_request(request)).await.unwrap();
    let sent = 6 * 1024 * 1024;
    for data in [vec![b'a'; sent / 2], vec![b'b'; sent / 2]] {
        upload.unbounded_send(Ok(Frame::data(data.into()))).unwrap();
    }
    drop(upload);
    let echoed = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(echoed.trailers().unwrap()["grpc-status"], "0");
    let echoed = echoed.to_bytes();
    assert_eq!(echoed.len(), sent);
    assert!(
        echoed[..sent / 2].iter().all(|byte| *byte == b'a')
            && echoed[sent / 2..].iter().all(|byte| *byte == b'b')
    );
}

/// Among several threads a connection holds its writes back for others: no one may wait for what is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_take_turns_never_wait_for_a_write() {
    let pair = Pair::start().await;
    let address = pair.http;
    serve(pair);
    let sender = client(address).await;
    let turns = (0..16).map(|stream| {
        let mut sender = sender.clone();
        tokio::spawn(async move {
            let (upload, request) = call();
            let response = soon(sender.send_request(request)).await.unwrap();
            let mut body = response.into_body();
            for turn in 0..20 {
                let message = Bytes::from(vec![stream; 1 + usize::from(stream) * 100 * turn]);
                upload.unbounded_send(Ok(Frame::data(message.clone()))).unwrap();
                let mut left = message.len();
                while left > 0 {
                    let data = soon(body.frame()).await.unwrap().unwrap().into_data().unwrap();
                    assert!(data.iter().all(|byte| *byte == stream));
                    left = left.checked_sub(data.len()).unwrap();
                }
            }
        })
    });
    let turns: Vec<_> = turns.collect();
    for turn in turns {
        turn.await.unwrap();
    }
}
