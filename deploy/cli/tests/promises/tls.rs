//! TLS of the applications' own.

use std::sync::Arc;

use anyhow::ensure;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{scene::EXCHANGE, server, world::within};

/// A server that has a certificate, and a client that trusts nothing else.
#[derive(Clone)]
pub(crate) struct Pair {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Pair {
    /// Makes a certificate for a name.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let certificate = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            name: ServerName::try_from(name.to_owned())?,
        })
    }

    /// Sends every byte back, inside TLS.
    pub(crate) async fn echo(self, listener: TcpListener) {
        server::each(listener, move |stream| {
            let acceptor = self.acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    let _client_left = tokio::io::copy(&mut reader, &mut writer).await;
                }
            }
        })
        .await;
    }

    /// Shakes hands with the server and nobody else, and has bytes sent back.
    pub(crate) async fn exchange(&self, stream: TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
        let handshake = self.connector.connect(self.name.clone(), stream);
        let mut stream = within(EXCHANGE, "the handshake", handshake).await??;
        stream.write_all(bytes).await?;
        stream.flush().await?;
        let mut back = vec![0; bytes.len()];
        within(EXCHANGE, "the echo", stream.read_exact(&mut back)).await??;
        ensure!(back == bytes, "{back:?} came back");
        Ok(())
    }
}
