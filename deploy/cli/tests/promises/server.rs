//! The applications' side: servers that run inside pods.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http_body_util::{BodyExt, Either, Full};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Body as _, Bytes, Incoming},
    header::{CONTENT_LENGTH, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Names the server that answered.
pub(crate) const IDENTITY: &str = "identity";
/// Names the HTTP version of the request that it saw.
pub(crate) const VERSION: &str = "saw-version";
/// Tells how many bytes of header it saw.
pub(crate) const HEADER_BYTES: &str = "saw-header-bytes";

/// Serves HTTP/1.1 and HTTP/2. The body of a POST is sent back as it comes, that of a PUT once it is complete; others
/// are answered with the server's name.
pub(crate) async fn http(listener: TcpListener, name: &str) {
    let name = Arc::<str>::from(name);
    while let Ok((stream, _)) = listener.accept().await {
        let name = Arc::clone(&name);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&name), request));
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().max_buf_size(1 << 20);
            builder.http2().max_header_list_size(1 << 20);
            let _client_left = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    name: Arc<str>,
    request: Request<Incoming>,
) -> hyper::Result<Response<Either<Full<Bytes>, Incoming>>> {
    let version = format!("{:?}", request.version());
    let size = header_bytes(request.headers()).to_string();
    let mut response = match *request.method() {
        Method::POST => Response::new(Either::Right(request.into_body())),
        Method::PUT => {
            let body = request.into_body().collect().await?;
            Response::new(Either::Left(Full::from(body.to_bytes())))
        }
        _ => Response::new(Either::Left(Full::from(name.to_string()))),
    };
    for (header, value) in [(IDENTITY, &*name), (VERSION, &version), (HEADER_BYTES, &size)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(header, value);
        }
    }
    if let Some(length) = response.body().size_hint().exact() {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// Sends every byte back.
pub(crate) async fn echo(listener: TcpListener) {
    each(listener, |mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        let _client_left = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await;
}

/// Speaks first, then sends every byte back.
pub(crate) async fn greet(listener: TcpListener, greeting: &'static [u8]) {
    each(listener, move |mut stream| async move {
        if stream.write_all(greeting).await.is_ok() {
            let (mut reader, mut writer) = stream.split();
            let _client_left = tokio::io::copy(&mut reader, &mut writer).await;
        }
    })
    .await;
}

/// Counts connections that carried anything, and answers each first byte with one.
pub(crate) async fn count(listener: TcpListener, counter: Arc<AtomicUsize>) {
    each(listener, move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            let mut first = [0];
            if stream.read_exact(&mut first).await.is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
                let _client_left = stream.write_all(&first).await;
            }
        }
    })
    .await;
}

/// Serves each connection on its own.
pub(crate) async fn each<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream));
    }
}
