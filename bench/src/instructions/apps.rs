//! The applications behind the pair: HTTP/1.1, gRPC, or an echo of bytes, on a thread of their own.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::load::{Kind, MESSAGE};
use crate::server::{self, Server};

/// Starts what requests of this kind need. It runs until the process ends.
///
/// # Errors
/// When no port can be bound.
pub(super) fn start(kind: Kind) -> anyhow::Result<Server> {
    let server = server::start(None)?;
    Ok(match kind {
        Kind::Http1 => server,
        Kind::Grpc => Server {
            http: serve(|stream| drop(tokio::spawn(answer_calls(stream))))?,
            ..server
        },
        Kind::Echo | Kind::Connect => Server {
            sink: serve(|stream| drop(tokio::spawn(echo(stream))))?,
            ..server
        },
    })
}

fn serve(handle: impl Fn(TcpStream) + Send + 'static) -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("application".into())
        .spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    handle(stream);
                }
                #[expect(unreachable_code, reason = "gives the block its type")]
                io::Result::Ok(())
            })
        })?;
    Ok(address)
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

async fn answer_calls(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(answer_call(request.into_body(), respond));
    }
    Ok(())
}

async fn answer_call(
    mut asked: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    while let Some(data) = asked.data().await {
        asked.flow_control().release_capacity(data?.len())?;
    }
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut body = respond.send_response(response, false)?;
    body.send_data(Bytes::from_static(&[0; MESSAGE]), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    body.send_trailers(trailers)
}
