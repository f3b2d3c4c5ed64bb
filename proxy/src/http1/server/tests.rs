use std::convert::Infallible;

use futures::{FutureExt, StreamExt, channel::mpsc, future::BoxFuture};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
    time::timeout,
};

use super::*;

type Asked = Result<Box<Request<Option<Upload<DuplexStream>>>>, Fault>;
type Answer = Response<UnsyncBoxBody<Bytes, BodyError>>;
type Served = JoinHandle<Result<(), Error>>;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n";

/// Serves a connection, and gives the client's end of it.
fn serve<S, R>(limit: Option<Duration>, service: S) -> (DuplexStream, Served)
where
    S: FnMut(Asked) -> R + Send + Unpin + 'static,
    R: Future<Output = Answer> + Send + Unpin + 'static,
{
    let (ours, theirs) = duplex(16 * 1024);
    let serving = Serving::new(ours, BytesMut::new(), limit, service);
    (theirs, tokio::spawn(serving))
}

/// Reads each request whole, and answers with what it was.
fn echo(asked: Asked) -> BoxFuture<'static, Answer> {
    async move {
        let request = match asked {
            Ok(request) => request,
            Err(fault) => return refusal(fault),
        };
        let (head, body) = request.into_parts();
        let body = match body {
            None => "no body".to_owned(),
            Some(body) => match body.collect().await {
                Ok(body) => {
                    let trailers = body.trailers().cloned().unwrap_or_default();
                    let body = String::from_utf8(body.to_bytes().into()).unwrap();
                    format!("{body} {trailers:?}")
                }
                Err(error) => error.to_string(),
            },
        };
        text(format!("{} {} {body}", head.method, head.uri))
    }
    .boxed()
}

fn refusal(fault: Fault) -> Answer {
    let mut answer = text(fault.to_string());
    *answer.status_mut() = fault.status();
    answer
}

fn text(text: impl Into<Bytes>) -> Answer {
    let body = Full::new(text.into()).map_err(|never: Infallible| match never {});
    Response::new(body.boxed_unsync())
}

fn nothing() -> Answer {
    let body = Empty::new().map_err(|never: Infallible| match never {});
    Response::new(body.boxed_unsync())
}

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>;

/// A body whose frames come when the test says.
fn streamed() -> (Frames, Answer) {
    let (sender, frames) = mpsc::unbounded();
    (sender, Response::new(StreamBody::new(frames).boxed_unsync()))
}

fn send(frames: &Frames, data: &'static str) {
    frames.unbounded_send(Ok(Frame::data(data.into()))).unwrap();
}

/// Fails a test that waits for ever.
async fn soon<F: Future>(future: F) -> F::Output {
    let limit = Duration::from_secs(10);
    timeout(limit, future)
        .await
        .expect("it should have happened by now")
}

/// What the client was sent, up to `end`.
async fn until(client: &mut DuplexStream, end: &str) -> String {
    let mut sent = Vec::new();
    while !sent.ends_with(end.as_bytes()) {
        let byte = soon(client.read_u8()).await;
        sent.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&sent))));
    }
    String::from_utf8(sent).unwrap()
}

async fn rest<R: AsyncRead + Unpin>(client: &mut R) -> String {
    let mut sent = String::new();
    soon(client.read_to_string(&mut sent)).await.unwrap();
    sent
}

/// Sends these bytes to an echo and no more, and gives what comes back.
async fn exchange(asked: &[u8]) -> String {
    let (mut client, _) = serve(None, echo);
    client.write_all(asked).await.unwrap();
    client.shutdown().await.unwrap();
    rest(&mut client).await
}

/// What a client that sends these bytes and no more gets of a service.
async fn exchange_with(
    mut service: impl FnMut(Asked) -> Answer + Send + Unpin + 'static,
    asked: &[u8],
) -> String {
    let (mut client, _) = serve(None, move |asked| std::future::ready(service(asked)));
    client.write_all(asked).await.unwrap();
    client.shutdown().await.unwrap();
    rest(&mut client).await
}

#[tokio::test]
async fn a_request_is_the_same_however_it_arrives() {
    let asked = b"\r\nPUT /a?b HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nx-sum: 1\r\n\r\nGET /a HTTP/1.1\r\nhost: x\r\n\r\n";
    for cut in 1..asked.len() {
        let (mut client, served) = serve(None, echo);
        client.write_all(&asked[..cut]).await.unwrap();
        tokio::task::yield_now().await;
        client.write_all(&asked[cut..]).await.unwrap();
        let first = until(&mut client, "}").await;
        assert!(
            first.ends_with(r#"PUT /a?b abcde {"x-sum": "1"}"#),
            "{cut}: {first}"
        );
        until(&mut client, "GET /a no body").await;
        drop(client);
        soon(served).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_may_be_read_two_ways_is_refused_and_ends_the_connection() {
    let long = format!("x: {}\r\n", "y".repeat(limits::HEADER_BYTES));
    let many = "x: y\r\n".repeat(limits::HEADERS + 1);
    for (fields, status) in [
        ("content-length: 5\r\ntransfer-encoding: chunked\r\n", 400),
        ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", 400),
        ("content-length: 5\r\ncontent-length: 6\r\n", 400),
        ("content-length: 5, 6\r\n", 400),
        ("content-length: +5\r\n", 400),
        ("content-length: 0x5\r\n", 400),
        ("content-length:\r\n", 400),
        ("transfer-encoding: gzip, chunked\r\n", 501),
        ("transfer-encoding: chunked, gzip\r\n", 501),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            501,
        ),
        ("transfer-encoding: \x0bchunked\r\n", 400),
        ("transfer-encoding : chunked\r\n", 400),
        ("x: y\r\n folded\r\n", 400),
        ("x y: z\r\n", 400),
        ("x: a\0b\r\n", 400),
        (&long, 431),
        (&many, 431),
    ] {
        let (client, served) = serve(None, echo);
        let asked = format!("POST / HTTP/1.1\r\nhost: x\r\n{fields}\r\n0\r\n\r\n");
        let asked = [asked.as_bytes(), GET].concat();
        let (mut read, mut write) = tokio::io::split(client);
        let writing = tokio::spawn(async move { write.write_all(&asked).await });
        let answer = rest(&mut read).await;
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{fields:?}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(
            answer.matches("HTTP/1.1").count(),
            1 + answer.matches("not HTTP/1.1").count()
        );
        let _ = writing.await.unwrap();
        drop(read);
        soon(served).await.unwrap().unwrap();
    }
    for (asked, status) in [
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\n\r\n", 505),
        ("GET /\r\n\r\n", 400),
        ("\rGET / HTTP/1.1\r\n\r\n", 400),
        ("GET\r\n\r\n", 400),
        ("G\x01T / HTTP/1.1\r\n\r\n", 400),
        ("GET /\x7f HTTP/1.1\r\n\r\n", 400),
        ("\x16\x03\x01\x02\r\n\r\n", 400),
        (
            "GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
    ] {
        let answer = exchange(asked.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{asked:?}: {answer}"
        );
    }
    let target = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(66_000));
    let (client, _served) = serve(None, echo);
    let (mut read, mut write) = tokio::io::split(client);
    tokio::spawn(async move { write.write_all(target.as_bytes()).await });
    let mut line = [0; 12];
    read.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 414");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error() {
    for (asked, said) in [
        (
            "content-length: 5\r\n\r\nabc",
            "closed before the message was complete",
        ),
        (
            "transfer-encoding: chunked\r\n\r\n5\r\nabc",
            "closed before the message",
        ),
        ("transfer-encoding: chunked\r\n\r\nx\r\nabc", "invalid chunk size"),
        (
            "transfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
            "longer than its size",
        ),
    ] {
        let answer = exchange(format!("POST / HTTP/1.1\r\nhost: x\r\n{asked}").as_bytes()).await;
        assert!(answer.contains(said), "{asked:?}: {answer}");
    }
    let (mut client, served) = serve(None, echo);
    client.write_all(b"GET / HTT").await.unwrap();
    drop(client);
    assert!(matches!(soon(served).await.unwrap(), Err(Error::Closed)));
}

#[tokio::test]
async fn a_response_ends_where_its_head_says() {
    for (method, status, fields, sent) in [
        ("GET", 200, &[][..], "200 OK\r\ncontent-length: 4\r\n\r\nbody"),
        (
            "GET",
            200,
            &[("content-length", "4")],
            "200 OK\r\ncontent-length: 4\r\n\r\nbody",
        ),
        (
            "HEAD",
            200,
            &[("content-length", "9")],
            "200 OK\r\ncontent-length: 9\r\n\r\n",
        ),
        ("HEAD", 200, &[], "200 OK\r\n\r\n"),
        ("GET", 204, &[("content-length", "4")], "204 No Content\r\n\r\n"),
        (
            "GET",
            304,
            &[("content-length", "9")],
            "304 Not Modified\r\ncontent-length: 9\r\n\r\n",
        ),
        ("GET", 299, &[], "299 \r\ncontent-length: 4\r\n\r\nbody"),
    ] {
        let (mut client, _served) = serve(None, move |_| {
            let mut answer = text("body");
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in fields {
                answer
                    .headers_mut()
                    .insert(*name, HeaderValue::from_static(value));
            }
            std::future::ready(answer)
        });
        let asked = format!("{method} / HTTP/1.1\r\nhost: x\r\n\r\n");
        client.write_all(asked.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, format!("HTTP/1.1 {sent}"));
    }
    let empty = exchange_with(|_| nothing(), GET).await;
    assert_eq!(empty, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
}

#[tokio::test]
async fn trailers_go_to_clients_that_read_them() {
    for (te, last) in [("te: trailers\r\n", "0\r\nx-sum: 1\r\n\r\n"), ("", "0\r\n\r\n")] {
        let service = |_| {
            let (frames, mut answer) = streamed();
            send(&frames, "abc");
            let trailers = [("x-sum", "1"), ("x-not-announced", "1")];
            let trailers = trailers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let trailers = http::HeaderMap::from_iter(trailers);
            frames.unbounded_send(Ok(Frame::trailers(trailers))).unwrap();
            answer
                .headers_mut()
                .insert("trailer", HeaderValue::from_static("x-sum"));
            answer
        };
        let asked = format!("GET / HTTP/1.1\r\nhost: x\r\n{te}\r\n");
        let answer = exchange_with(service, asked.as_bytes()).await;
        let head = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
        assert_eq!(answer, format!("{head}{last}"));
    }
}

#[tokio::test]
async fn an_old_client_is_answered_as_it_understands() {
    let old = |fields: &str| format!("GET / HTTP/1.0\r\n{fields}\r\n");
    let known = exchange_with(|_| text("body"), old("").as_bytes()).await;
    assert_eq!(known, "HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nbody");
    let kept = exchange_with(|_| text("body"), old("connection: keep-alive\r\n").as_bytes()).await;
    assert_eq!(
        kept,
        "HTTP/1.0 200 OK\r\ncontent-length: 4\r\nconnection: keep-alive\r\n\r\nbody"
    );
    // Without a length only the end of the connection tells.
    let (mut client, served) = serve(None, |_| {
        let (frames, answer) = streamed();
        send(&frames, "all");
        std::future::ready(answer)
    });
    client
        .write_all(old("connection: keep-alive\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(rest(&mut client).await, "HTTP/1.0 200 OK\r\n\r\nall");
    soon(served).await.unwrap().unwrap();
}

/// Of what came before its client sees as much as it can.
#[tokio::test]
async fn a_response_that_breaks_off_is_not_completed() {
    let (mut client, served) = serve(None, |_| {
        let (frames, answer) = streamed();
        send(&frames, "abc");
        frames.unbounded_send(Err(BodyError::Idle)).unwrap();
        std::future::ready(answer)
    });
    client.write_all(GET).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n3\r\nabc\r\n"), "{answer}");
    assert!(matches!(
        soon(served).await.unwrap(),
        Err(Error::Body(BodyError::Idle))
    ));
}

#[tokio::test]
async fn a_response_that_breaks_off_waits_for_no_client() {
    let (mut client, served) = serve(None, |_| {
        let (frames, answer) = streamed();
        let more = Bytes::from(vec![b'x'; 32 * 1024]);
        frames.unbounded_send(Ok(Frame::data(more))).unwrap();
        frames.unbounded_send(Err(BodyError::Idle)).unwrap();
        std::future::ready(answer)
    });
    client.write_all(GET).await.unwrap();
    assert!(matches!(
        soon(served).await.unwrap(),
        Err(Error::Body(BodyError::Idle))
    ));
}

/// To close a connection on bytes that are still coming would cost the client the answer.
mod life;
