use std::{
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::http::{Body, BodyError};

mod faults;
mod life;
mod tunnels;
mod turns;
mod windows;

/// A SETTINGS frame that sets nothing.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const SOON: Duration = Duration::from_secs(10);

/// The result of what does not take long.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it takes too long")
}

/// A client of ours, and the other end of its connection.
fn client() -> (Client, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    let (client, connection) = connect(near);
    tokio::spawn(connection);
    (client, far)
}

fn spawn<F, R>(io: DuplexStream, service: F) -> JoinHandle<Result<(), Error>>
where
    F: FnMut(Box<Request<Body>>) -> R + Send + Unpin + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    tokio::spawn(serve(io, service))
}

/// Answers with what it was asked, in the head and in the body.
async fn echo(request: Box<Request<Body>>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body);
    *response.headers_mut() = head.headers;
    let asked = format!("{} {}", head.method, head.uri);
    response.headers_mut().insert("x-asked", asked.parse().unwrap());
    response
}

fn get(target: &str) -> Box<Request<Body>> {
    Box::new(Request::get(target).body(Body::empty()).unwrap())
}

fn put<B>(body: B) -> Box<Request<B>> {
    Box::new(Request::put("/").body(body).unwrap())
}

async fn send<B>(client: &Client, request: Box<Request<B>>) -> Result<Response<Incoming>, Error>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
{
    match soon(ask(client, request)).await {
        Ok(response) => Ok(response),
        Err(Unanswered::Broken(error)) => Err(error),
        Err(Unanswered::Unsent(_)) => panic!("unsent"),
        Err(Unanswered::Body(error)) => panic!("{error}"),
    }
}

async fn ask<B>(client: &Client, request: Box<Request<B>>) -> Result<Response<Incoming>, Unanswered<B>>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
{
    let (head, body) = request.into_parts();
    client.send(&Request::from_parts(head, ()), None, body).await
}

/// Sends a request over a client of h2's.
async fn h2_client(io: DuplexStream) -> h2::client::SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// A body of what comes through a channel.
struct Channel(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl http_body::Body for Channel {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

#[tokio::test]
async fn requests_are_answered() {
    let (client, far) = client();
    spawn(far, echo);
    for _ in 0..3 {
        let response = send(&client, get("/a?b")).await.unwrap();
        assert_eq!(
            (response.status(), response.version()),
            (StatusCode::OK, Version::HTTP_2)
        );
        assert_eq!(response.headers()["x-asked"], "GET /a?b");
        assert!(response.body().is_end_stream());
        let response = send(&client, put(Body::full("bytes"))).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "bytes");
        let mut request = get("http://app:80/a");
        request.headers_mut().insert("x-a", "b".parse().unwrap());
        let response = send(&client, request).await.unwrap();
        assert_eq!(response.headers()["x-asked"], "GET http://app:80/a");
        assert_eq!(response.headers()["x-a"], "b");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_of_many_threads_are_answered() {
    let (client, far) = client();
    spawn(far, echo);
    let asking = (0..8).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..1000 {
                let response = send(&client, put(Body::full("bytes"))).await.unwrap();
                let came = soon(response.into_body().collect()).await.unwrap();
                assert_eq!(came.to_bytes(), "bytes");
            }
        })
    });
    for asked in futures::future::join_all(asking).await {
        asked.unwrap();
    }
}

#[tokio::test]
async fn an_empty_body_is_not_none() {
    let (client, far) = client();
    spawn(far, echo);
    let (frames, body) = mpsc::unbounded_channel();
    drop(frames);
    let response = send(&client, put(Channel(body))).await.unwrap();
    assert!(!response.body().is_end_stream());
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

#[tokio::test]
async fn a_server_of_h2_understands_the_client() {
    let (client, far) = client();
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let (head, mut body) = request.into_parts();
                let mut response = Response::new(());
                *response.headers_mut() = head.headers;
                let mut send = respond.send_response(response, false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    send.send_data(data, false).unwrap();
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("x-end", "here".parse().unwrap());
                send.send_trailers(trailers).unwrap();
            });
        }
    });
    let all: Vec<u8> = (0..251).cycle().take(1_000_000).collect();
    for size in [0, 1, 16_384, 16_385, 1_000_000] {
        let mut request = put(Body::full(all[..size].to_vec()));
        request.headers_mut().insert("x-a", "b".parse().unwrap());
        let response = send(&client, request).await.unwrap();
        assert_eq!(response.headers()["x-a"], "b");
        let body = soon(response.into_body().collect()).await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-end"], "here");
        assert!(body.to_bytes() == all[..size]);
    }
}

#[tokio::test]
async fn a_client_of_h2_understands_the_server() {
    let (near, far) = duplex(64 * 1024);
    spawn(far, echo);
    let mut sender = h2_client(near).await;
    let all: Vec<u8> = (0..251).cycle().take(1_000_000).collect();
    for size in [0, 1, 16_384, 16_385, 1_000_000] {
        let request = Request::put("http://app/").header("x-a", "b").body(()).unwrap();
        let (response, mut send) = sender.send_request(request, false).unwrap();
        send.send_data(all[..size].to_vec().into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", "here".parse().unwrap());
        send.send_trailers(trailers).unwrap();
        let (head, mut body) = soon(response).await.unwrap().into_parts();
        assert_eq!(head.headers["x-asked"], "PUT http://app/");
        assert_eq!(head.headers["x-a"], "b");
        let mut came = Vec::new();
        while let Some(data) = soon(body.data()).await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            came.extend_from_slice(&data);
        }
        assert!(came == all[..size]);
        assert_eq!(soon(body.trailers()).await.unwrap().unwrap()["x-end"], "here");
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways_within_the_windows() {
    let (client, far) = client();
    spawn(far, echo);
    let all: Vec<u8> = (0..251).cycle().take(3_000_000).collect();
    let echoes = (0..4).map(|_| async {
        let response = send(&client, put(Body::full(all.clone()))).await.unwrap();
        let came = soon(response.into_body().collect()).await.unwrap().to_bytes();
        assert!(came == all);
    });
    futures::future::join_all(echoes).await;
}

#[tokio::test]
async fn who_reads_nothing_stops_only_his_own_stream() {
    let (client, far) = client();
    spawn(far, |_| async { Response::new(Body::full(vec![0; 2_000_000])) });
    let still = send(&client, get("/")).await.unwrap();
    let response = send(&client, get("/")).await.unwrap();
    assert_eq!(
        soon(response.into_body().collect())
            .await
            .unwrap()
            .to_bytes()
            .len(),
        2_000_000
    );
    assert_eq!(
        soon(still.into_body().collect()).await.unwrap().to_bytes().len(),
        2_000_000
    );
}

#[tokio::test]
async fn both_ways_pass_at_the_same_time() {
    let (client, far) = client();
    spawn(far, echo);
    let (frames, body) = mpsc::unbounded_channel();
    let mut response = send(&client, put(Channel(body))).await.unwrap().into_body();
    for word in ["a", "b", "c"] {
        frames
            .send(Frame::data(Bytes::from_static(word.as_bytes())))
            .unwrap();
        let came = soon(response.frame()).await.unwrap().unwrap();
        assert_eq!(came.into_data().unwrap(), word);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "here".parse().unwrap());
    frames.send(Frame::trailers(trailers.clone())).unwrap();
    let came = soon(response.frame()).await.unwrap().unwrap();
    assert_eq!(came.into_trailers().unwrap(), trailers);
    assert!(soon(response.frame()).await.is_none());
}
