//! HTTP as applications speak it.

use std::{convert::Infallible, sync::Arc};

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{
    Request,
    body::{Bytes, Frame},
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    Outcome, Tests,
    client::{self, Http1, Reply},
    manifest::{allow_http, member, service},
    scene::{EXCHANGE, Scene},
    server,
    world::{World, find_program, within},
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "http::a_connection_serves_one_request_after_the_other",
        keep_alive,
    );
    tests.add("http::head_has_the_length_and_no_body", head);
    tests.add("http::a_body_waits_for_100_continue", expect_continue);
    tests.add("http::chunks_stream_both_ways_at_the_same_time", streaming);
    tests.add(
        "http::headers_of_64_kib_pass_and_larger_ones_get_431",
        large_headers,
    );
    tests.add("http::http2_with_prior_knowledge_stays_http2_end_to_end", h2c);
    tests.add_if(
        "http::curl_gets_an_answer_by_every_name_of_a_service",
        curl(),
        |world, ()| by_name(world),
    );
}

async fn stage(world: Arc<World>, namespace: &str) -> anyhow::Result<Scene> {
    let parts = [
        member("client"),
        member("server"),
        service("server", "{name: http-web, port: 80, targetPort: 8080}"),
        allow_http("server", &["client"]),
    ];
    Scene::open(world, namespace, &parts).await
}

/// The stage with an HTTP server that is already reached.
async fn served(world: Arc<World>, namespace: &str) -> anyhow::Result<Scene> {
    let scene = stage(world, namespace).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    let to = scene.service("server", 80)?;
    let reached = || async { scene.get("client", to, "/").await?.expect(200) };
    scene.eventually("the server is reached", reached).await?;
    Ok(scene)
}

fn curl() -> Result<(), String> {
    let found = find_program("curl").map(drop);
    found.ok_or_else(|| "there is no curl; install it (Debian: apt-get install curl)".to_owned())
}

async fn by_name(world: Arc<World>) -> Outcome {
    let scene = served(world, "http-curl").await?;
    for name in [
        "server",
        "server.http-curl",
        "server.http-curl.svc",
        "server.http-curl.svc.cluster.local",
    ] {
        let url = format!("http://{name}/");
        let argv = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--output",
            "/dev/null",
        ];
        let argv = [&argv[..], &["--write-out", "%{http_code}", &url]].concat();
        let status = scene.exec("client", &argv).await?;
        ensure!(status == "200", "{url} answered {status}");
    }
    Ok(())
}

async fn dial(scene: &Scene) -> anyhow::Result<TcpStream> {
    scene.dial("client", scene.service("server", 80)?).await
}

async fn keep_alive(world: Arc<World>) -> Outcome {
    let scene = served(world, "http-keep-alive").await?;
    let mut connection = Http1::new(dial(&scene).await?).await?;
    for number in 0..50 {
        let text = number.to_string().repeat(number);
        let request = Request::post("/")
            .header("host", "server")
            .body(Full::<Bytes>::from(text.clone()))?;
        let reply = Reply::read(connection.send(request).await?).await?.expect(200)?;
        ensure!(reply.body == text, "{} came back instead of {text}", reply.body);
        ensure!(
            reply.header(server::VERSION) == "HTTP/1.1",
            "the server saw {}",
            reply.header(server::VERSION)
        );
    }
    Ok(())
}

async fn head(world: Arc<World>) -> Outcome {
    let scene = served(world, "http-head").await?;
    let mut connection = Http1::new(dial(&scene).await?).await?;
    for method in ["HEAD", "GET", "HEAD"] {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "server");
        let response = connection.send(request.body(Empty::<Bytes>::new())?).await?;
        let reply = Reply::read(response).await?.expect(200)?;
        ensure!(
            reply.header("content-length") == "6",
            "the length is {:?}",
            reply.header("content-length")
        );
        let body = if method == "HEAD" { "" } else { "server" };
        ensure!(reply.body == body, "the body of {method} is {:?}", reply.body);
    }
    Ok(())
}

/// By hand, for no client library shows when it sends what.
/// The server answers once it has the body: one that answers the head may have that pass instead of a 100.
async fn expect_continue(world: Arc<World>) -> Outcome {
    let scene = served(world, "http-continue").await?;
    let mut stream = dial(&scene).await?;
    for body in ["five5", "six666"] {
        let head = format!(
            "PUT / HTTP/1.1\r\nHost: server\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client::write(&mut stream, head.as_bytes()).await?;
        let interim = client::head(&mut stream).await?;
        ensure!(
            interim.starts_with("HTTP/1.1 100 "),
            "the answer to the head is {interim}"
        );
        client::write(&mut stream, body.as_bytes()).await?;
        let last = client::head(&mut stream).await?.to_ascii_lowercase();
        ensure!(
            last.starts_with("http/1.1 200 "),
            "the answer to the body is {last}"
        );
        let rest = match last.contains("transfer-encoding: chunked") {
            true => format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
            false => body.to_owned(),
        };
        let back = client::read(&mut stream, rest.len()).await?;
        let same = back.eq_ignore_ascii_case(rest.as_bytes());
        ensure!(same, "{:?} came back", String::from_utf8_lossy(&back));
    }
    Ok(())
}

/// Each chunk is sent only after the one before has come back: whoever gathers the body first stops for ever.
async fn streaming(world: Arc<World>) -> Outcome {
    let scene = served(world, "http-streaming").await?;
    let (sender, chunks) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let mut connection = Http1::new(dial(&scene).await?).await?;
    let body = StreamBody::new(ReceiverStream::new(chunks));
    sender.send(Ok(Frame::data(Bytes::from_static(b"first")))).await?;
    let response = connection
        .send(Request::post("/").header("host", "server").body(body)?)
        .await?;
    ensure!(response.status() == 200, "the answer is {}", response.status());
    ensure!(
        !response.headers().contains_key("content-length"),
        "the body was measured"
    );
    let mut body = response.into_body();
    let mut expected = "first".to_owned();
    for number in 0..20 {
        let frame = within(EXCHANGE, "a chunk", body.frame())
            .await?
            .context("the body ended")??;
        let data = frame.into_data().map_err(|_| anyhow::anyhow!("trailers came"))?;
        ensure!(data == expected.as_bytes(), "{data:?} came instead of {expected}");
        expected = format!("chunk {number}");
        sender
            .send(Ok(Frame::data(Bytes::from(expected.clone()))))
            .await?;
    }
    let last = within(EXCHANGE, "the last chunk", body.frame())
        .await?
        .context("the body ended")??;
    ensure!(
        last.into_data().is_ok_and(|data| data == expected.as_bytes()),
        "the last chunk is another"
    );
    drop(sender);
    ensure!(
        within(EXCHANGE, "the end", body.frame()).await?.is_none(),
        "the body goes on"
    );
    Ok(())
}

async fn large_headers(world: Arc<World>) -> Outcome {
    let scene = served(world, "http-headers").await?;
    let sized = |size: usize| {
        let request = Request::get("/").header("host", "server");
        (0..4).fold(request, |request, number| {
            request.header(format!("x-large-{number}"), "x".repeat(size / 4))
        })
    };
    let reply = client::request(dial(&scene).await?, sized(64 * 1024))
        .await?
        .expect(200)?;
    let seen: usize = reply.header(server::HEADER_BYTES).parse()?;
    ensure!(seen >= 64 * 1024, "the server saw only {seen} bytes");
    let reply = client::request(dial(&scene).await?, sized(80 * 1024))
        .await?
        .expect(431)?;
    ensure!(
        reply.header(server::IDENTITY).is_empty(),
        "the server answered 431"
    );
    Ok(())
}

async fn h2c(world: Arc<World>) -> Outcome {
    let scene = served(world, "http-h2c").await?;
    let connection = client::h2c(dial(&scene).await?).await?;
    let request = |number: usize| {
        let mut connection = connection.clone();
        async move {
            let text = format!("request {number}");
            let request = Request::post("http://server/").body(Full::<Bytes>::from(text.clone()))?;
            let response = within(EXCHANGE, "an answer", connection.send_request(request)).await??;
            let reply = Reply::read(response).await?.expect(200)?;
            ensure!(reply.body == text, "{} came back instead of {text}", reply.body);
            let version = reply.header(server::VERSION);
            ensure!(version == "HTTP/2.0", "the server saw {version}");
            Ok(())
        }
    };
    // At the same time, on one connection.
    futures::future::try_join_all((0..50).map(request)).await?;
    Ok(())
}
