use std::convert::Infallible;

use bytes::Bytes;
use futures::channel::mpsc;
use http::{HeaderMap, Method};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

type Link = Connection<DuplexStream>;
type Answer = Result<Response<Incoming<DuplexStream>>, Error>;

/// A connection, and the endpoint's end of it.
fn link() -> (Box<Link>, DuplexStream) {
    let (ours, theirs) = duplex(64 * 1024);
    (Box::new(Connection::new(ours)), theirs)
}

/// Sends a request over a connection.
fn send<T, B>(
    connection: Box<Connection<T>>,
    request: Request<B>,
) -> impl Future<Output = Result<Response<Incoming<T>>, Error>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
{
    let (head, body) = request.into_parts();
    connection.send(&Request::from_parts(head, ()), body)
}

fn request(method: Method, fields: &[(&'static str, &'static str)]) -> http::request::Builder {
    let mut builder = Request::builder().method(method).uri("/a?b");
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder
}

fn get() -> Request<impl Body<Data = Bytes, Error = BodyError> + Unpin + Send> {
    let body = Empty::new().map_err(|never: Infallible| match never {});
    request(Method::GET, &[("host", "x")]).body(body).unwrap()
}

/// A body whose frames come when the test says.
type Frames = mpsc::UnboundedReceiver<Result<Frame<Bytes>, BodyError>>;
struct Sender(mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>);

impl Sender {
    fn data(&self, data: impl Into<Bytes>) {
        self.0.unbounded_send(Ok(Frame::data(data.into()))).unwrap();
    }
}

fn post(fields: &[(&'static str, &'static str)]) -> (Sender, Request<StreamBody<Frames>>) {
    let (sender, frames) = mpsc::unbounded();
    let request = request(Method::POST, fields)
        .body(StreamBody::new(frames))
        .unwrap();
    (Sender(sender), request)
}

/// What the endpoint was sent, up to `end`.
async fn until(endpoint: &mut DuplexStream, end: &str) -> String {
    let mut sent = Vec::new();
    while !sent.ends_with(end.as_bytes()) {
        sent.push(endpoint.read_u8().await.unwrap());
    }
    String::from_utf8(sent).unwrap()
}

/// Sends a request, answers with these bytes and perhaps the end, and gives what came of it.
async fn exchange(answer: &[u8], end: bool) -> Answer {
    let (connection, mut endpoint) = link();
    let asked = tokio::spawn(send(connection, get()));
    until(&mut endpoint, "\r\n\r\n").await;
    endpoint.write_all(answer).await.unwrap();
    // Closed now, or held open for as long as the test lasts.
    match end {
        true => drop(endpoint),
        false => std::mem::forget(endpoint),
    }
    asked.await.unwrap()
}

/// The body, its trailers, and whether the connection may be used again.
async fn read(response: Response<Incoming<DuplexStream>>) -> Result<(Bytes, Option<HeaderMap>, bool), Error> {
    let mut body = response.into_body();
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(part) => data.extend_from_slice(&part),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((data.into(), trailers, body.take_connection().is_some()))
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let (mut connection, mut endpoint) = link();
    for body in ["one", "two"] {
        let asked = tokio::spawn(send(connection, get()));
        let sent = until(&mut endpoint, "\r\n\r\n").await;
        assert_eq!(sent, "GET /a?b HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = format!("HTTP/1.1 200 Fine\r\nContent-Length: 3\r\nX-Empty:\r\n\r\n{body}");
        endpoint.write_all(answer.as_bytes()).await.unwrap();
        let response = asked.await.unwrap().unwrap();
        let phrase = response.extensions().get::<hyper::ext::ReasonPhrase>().unwrap();
        assert_eq!(phrase.as_bytes(), b"Fine");
        assert_eq!(response.headers()["x-empty"], "");
        let mut incoming = response.into_body();
        assert!(incoming.take_connection().is_none(), "it is not read yet");
        assert_eq!(incoming.size_hint().exact(), Some(3));
        let data = incoming.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, body);
        assert!(incoming.is_end_stream());
        connection = incoming.take_connection().unwrap();
        assert!(connection.is_reusable());
    }
    drop(endpoint);
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn a_response_is_the_same_however_it_arrives() {
    let answer = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n";
    for cut in 1..answer.len() {
        let (connection, mut endpoint) = link();
        let asked = tokio::spawn(send(connection, get()));
        until(&mut endpoint, "\r\n\r\n").await;
        endpoint.write_all(&answer[..cut]).await.unwrap();
        tokio::task::yield_now().await;
        endpoint.write_all(&answer[cut..]).await.unwrap();
        let response = asked.await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        let (body, trailers, reusable) = read(response).await.unwrap();
        assert_eq!((&body[..], reusable), (&b"abcde"[..], true), "cut at {cut}");
        assert_eq!(trailers.unwrap()["x-sum"], "1");
    }
}

#[tokio::test]
async fn only_a_clean_connection_is_used_again() {
    for (answer, reusable) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        (
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nab",
            true,
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nab", false),
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n",
            false,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\nx", false),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nx",
            false,
        ),
    ] {
        let response = exchange(answer.as_bytes(), false).await.unwrap();
        assert_eq!(read(response).await.unwrap().2, reusable, "{answer}");
    }
    let (mut connection, mut endpoint) = link();
    endpoint.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    assert!(!connection.is_reusable(), "a response that no one asked for");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_an_error() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
    ] {
        let came = match exchange(answer.as_bytes(), true).await {
            Ok(response) => read(response).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(came, Err(Error::Closed)), "{answer:?}: {came:?}");
    }
    let closed = exchange(b"HTTP/1.1 200 OK\r\n\r\nall", true).await.unwrap();
    let (body, _, reusable) = read(closed).await.unwrap();
    assert_eq!((&body[..], reusable), (&b"all"[..], false));
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
        "y".repeat(limits::RESPONSE_HEADER_BYTES)
    );
    let many = format!(
        "HTTP/1.1 200 OK\r\n{}\r\n",
        "x: y\r\n".repeat(limits::HEADERS + 1)
    );
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 99 Odd\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx y: z\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        &many,
    ] {
        let came = exchange(answer.as_bytes(), false).await;
        assert!(matches!(came, Err(Error::Malformed(_))), "{answer}: {came:?}");
    }
    let (connection, mut endpoint) = link();
    let asked = tokio::spawn(send(connection, get()));
    let _ = endpoint.write_all(long.as_bytes()).await;
    assert!(matches!(asked.await.unwrap(), Err(Error::Malformed(_))));
}

#[tokio::test]
async fn a_body_of_unknown_length_is_chunked() {
    let (connection, mut endpoint) = link();
    let fields = [
        ("transfer-encoding", "chunked"),
        ("content-length", "9"),
        ("trailer", "x-sum"),
    ];
    let (frames, request) = post(&fields);
    let asked = tokio::spawn(send(connection, request));
    let head = until(&mut endpoint, "\r\n\r\n").await;
    assert!(
        head.contains("transfer-encoding: chunked") && !head.contains("content-length"),
        "{head}"
    );
    frames.data("hello");
    assert_eq!(until(&mut endpoint, "hello\r\n").await, "5\r\nhello\r\n");
    let large = vec![b'x'; 2 * 16 * 1024];
    frames.data("");
    frames.data(large.clone());
    assert_eq!(until(&mut endpoint, "x\r\n").await.len(), large.len() + 8);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    trailers.insert("x-not-announced", "1".parse().unwrap());
    frames.0.unbounded_send(Ok(Frame::trailers(trailers))).unwrap();
    assert_eq!(until(&mut endpoint, "\r\n\r\n").await, "0\r\nx-sum: 1\r\n\r\n");
    endpoint
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .unwrap();
    assert!(read(asked.await.unwrap().unwrap()).await.unwrap().2);
}

#[tokio::test]
async fn where_a_body_ends_is_said_once() {
    let (connection, mut endpoint) = link();
    let twice = [("content-length", "3"), ("content-length", "3"), ("host", "x")];
    let (frames, twice) = post(&twice);
    frames.data("abc");
    let _asked = tokio::spawn(send(connection, twice));
    let sent = until(&mut endpoint, "abc").await;
    assert_eq!(
        sent,
        "POST /a?b HTTP/1.1\r\ncontent-length: 3\r\nhost: x\r\n\r\nabc"
    );

    let (connection, mut endpoint) = link();
    let empty = request(Method::GET, &[("transfer-encoding", "chunked"), ("host", "x")]);
    let empty = empty.body(Empty::new().map_err(|never: Infallible| match never {}));
    let _asked = tokio::spawn(send(connection, empty.unwrap()));
    let sent = until(&mut endpoint, "\r\n\r\n").await;
    assert_eq!(sent, "GET /a?b HTTP/1.1\r\nhost: x\r\n\r\n");
}

#[tokio::test]
async fn a_body_is_as_long_as_its_head_says() {
    for (parts, length) in [(&["ab", "cd"][..], "longer"), (&["ab"], "shorter")] {
        let (connection, _endpoint) = link();
        let (frames, request) = post(&[("content-length", "3")]);
        parts.iter().for_each(|part| frames.data(*part));
        drop(frames);
        let came = send(connection, request).await;
        assert!(
            matches!(came, Err(Error::Length(said)) if said == length),
            "{came:?}"
        );
    }
    let (connection, _endpoint) = link();
    let empty = request(Method::POST, &[("content-length", "3")]);
    let empty = empty.body(Empty::new().map_err(|never: Infallible| match never {}));
    let came = send(connection, empty.unwrap()).await;
    assert!(matches!(came, Err(Error::Length("shorter"))), "{came:?}");
}

#[tokio::test]
async fn an_early_response_does_not_wait_for_the_request() {
    let (connection, mut endpoint) = link();
    let (frames, request) = post(&[("content-length", "6")]);
    frames.data("abc");
    let asked = tokio::spawn(send(connection, request));
    until(&mut endpoint, "abc").await;
    endpoint
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await
        .unwrap();
    let (body, _, reusable) = read(asked.await.unwrap().unwrap()).await.unwrap();
    assert_eq!((&body[..], reusable), (&b"ok"[..], false));
    frames.data("def");
    until(&mut endpoint, "def").await;
}

#[tokio::test]
async fn a_response_given_up_ends_its_request() {
    let (connection, mut endpoint) = link();
    let (frames, request) = post(&[("content-length", "6")]);
    let asked = tokio::spawn(send(connection, request));
    until(&mut endpoint, "\r\n\r\n").await;
    endpoint
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        .await
        .unwrap();
    drop(asked.await.unwrap().unwrap());
    assert!(endpoint.read_u8().await.is_err());
    assert!(frames.0.is_closed());
}

#[tokio::test]
async fn what_an_endpoint_says_before_it_hangs_up_is_heard() {
    let (ours, theirs) = tokio::io::simplex(1024);
    let (connection, mut endpoint) = {
        let (read, write) = (ours, Hung);
        (Box::new(Connection::new(tokio::io::join(read, write))), theirs)
    };
    endpoint
        .write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let response = send(connection, get()).await.unwrap();
    assert_eq!(response.status(), 413);
    assert!(response.into_body().take_connection().is_none());
}

/// Takes nothing.
struct Hung;

impl AsyncWrite for Hung {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_is_not_completed() {
    let (connection, mut endpoint) = link();
    let (frames, request) = post(&[("transfer-encoding", "chunked")]);
    frames.data("abc");
    frames.0.unbounded_send(Err(BodyError::Idle)).unwrap();
    assert!(matches!(
        send(connection, request).await,
        Err(Error::Body(BodyError::Idle))
    ));
    let mut sent = String::new();
    endpoint.read_to_string(&mut sent).await.unwrap();
    assert!(!sent.contains("0\r\n"), "{sent}");

    // Also when the response has begun.
    let (connection, mut endpoint) = link();
    let (frames, request) = post(&[("transfer-encoding", "chunked")]);
    let asked = tokio::spawn(send(connection, request));
    until(&mut endpoint, "\r\n\r\n").await;
    endpoint.write_all(b"HTTP/1.1 200 OK\r\n\r\nabc").await.unwrap();
    let mut body = asked.await.unwrap().unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    frames.data("abc");
    frames.0.unbounded_send(Err(BodyError::Idle)).unwrap();
    let mut sent = String::new();
    endpoint.read_to_string(&mut sent).await.unwrap();
    assert!(!sent.contains("0\r\n"), "{sent}");
}

#[tokio::test]
async fn a_connection_that_changes_its_protocol_is_handed_over() {
    let (connection, mut endpoint) = link();
    let wanted = [("connection", "upgrade"), ("upgrade", "echo")];
    let body = Empty::new().map_err(|never: Infallible| match never {});
    let asked = tokio::spawn(send(
        connection,
        request(Method::GET, &wanted).body(body).unwrap(),
    ));
    until(&mut endpoint, "\r\n\r\n").await;
    let agreed = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\n\r\nfirst";
    endpoint.write_all(agreed).await.unwrap();
    let mut body = asked.await.unwrap().unwrap().into_body();
    assert!(body.is_end_stream() && body.take_connection().is_none());
    let mut switched = body.take_switched().unwrap();
    let mut first = [0; 5];
    switched.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"first");
    switched.write_all(b"back").await.unwrap();
    assert_eq!(until(&mut endpoint, "back").await, "back");
}
