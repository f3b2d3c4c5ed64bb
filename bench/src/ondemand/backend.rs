//! The servers: every pod of the mesh, behind a sidecar of its own as far as the client can tell.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use rustls::{ServerConfig, crypto::aws_lc_rs};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::identity::Signer;
use crate::scale::layout::{APP_PORT, Layout};

/// Each connection is for one request, so that another connection costs what the first one did.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
const ALPN: &[u8] = b"osm";
const LONGEST_HEAD: usize = 64 * 1024;

/// Begins to serve on the pods' addresses.
///
/// # Errors
/// When a certificate cannot be signed, or the port cannot be bound.
pub(super) async fn start(layout: &Layout, signer: &Signer) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut servers = HashMap::new();
    for app in 0..layout.apps() {
        let mut pods = layout.pods_of(app);
        let (chain, key) = signer.sign(layout, app, pods.start)?.der();
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        servers.extend(
            pods.by_ref()
                .map(|pod| (IpAddr::V4(layout.pod_ip(pod)), acceptor.clone())),
        );
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, APP_PORT)).await?;
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = stream.local_addr().ok().and_then(|at| servers.get(&at.ip()));
            if let Some(acceptor) = acceptor {
                tokio::spawn(serve(acceptor.clone(), stream));
            }
        }
    }))
}

/// Answers one request. A client that left has no answer.
async fn serve(acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    if head(&mut stream).await.is_some() {
        let _ = stream.write_all(ANSWER).await;
        let _ = stream.shutdown().await;
    }
}

/// Reads the head of a message; `None` when it ends before.
pub(super) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = stream.read_buf(&mut head).await.ok()?;
        if read == 0 || head.len() > LONGEST_HEAD {
            return None;
        }
    }
    String::from_utf8(head).ok()
}
