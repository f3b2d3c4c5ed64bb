//! TLS towards clients.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::{ServerConfig, crypto::CryptoProvider, server::NoServerSessionStorage, sign::SingleCertAndKey};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::warn;

use super::{
    CARRYING, HandshakeError, PeerIdentity,
    material::{Material, Secrets, unusable},
    provider_with,
    verify::{ClientVerifier, Expected},
    versions,
};
use crate::{
    model::{ServerTls, StringMatcher, TlsVersion},
    xds::Store,
};

/// A connection after its handshake.
pub struct Accepted<IO> {
    /// The bytes inside.
    pub stream: TlsStream<IO>,
    /// Who the client is; `None` where a certificate is not required and it showed none.
    pub peer: Option<Arc<PeerIdentity>>,
    /// The application protocol agreed on.
    pub alpn: Option<String>,
    /// Whether HTTP/2 may carry HTTP/1 requests: both sides are sidecars that know how, and have proved who they are.
    pub carries: bool,
    /// The server name that the client asked for.
    pub sni: Option<String>,
}

/// TLS termination as one filter chain configures it. Cheap to make; keep it while its chain lives.
pub struct ServerSide {
    material: Material,
    names: Vec<StringMatcher>,
    require_certificate: bool,
    alpn: Vec<Vec<u8>>,
    min: TlsVersion,
    max: TlsVersion,
    provider: Arc<CryptoProvider>,
    built: Mutex<Option<Built>>,
}

struct Built {
    secrets: Secrets,
    configs: Configs,
}

#[derive(Clone)]
struct Configs {
    plain: Arc<ServerConfig>,
    /// With each protocol `x` as `x-h1h2` too.
    carrying: Arc<ServerConfig>,
}

impl ServerSide {
    /// Begins to watch the secrets that the configuration names.
    pub fn new(tls: &ServerTls, store: &Store) -> Self {
        let trust = tls.trust_bundle.as_deref();
        Self {
            material: Material::new(store, Some(&tls.certificate), trust, tls.inline_trust.as_ref()),
            names: tls.subject_alt_names.clone(),
            require_certificate: tls.require_client_certificate,
            alpn: tls
                .alpn
                .iter()
                .map(|protocol| protocol.clone().into_bytes())
                .collect(),
            min: tls.min_version,
            max: tls.max_version,
            provider: provider_with(&tls.algorithms),
            built: Mutex::new(None),
        }
    }

    /// Does the handshake within `limit`. Secrets not yet there are waited for as long before. With `carrying`, a
    /// client that must show a certificate may agree on HTTP/2 that carries HTTP/1 requests.
    ///
    /// # Errors
    /// When the client is refused or refuses, and when it takes too long.
    pub async fn accept<IO>(
        &self,
        io: IO,
        limit: Duration,
        carrying: bool,
    ) -> Result<Accepted<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let carrying = carrying && self.require_certificate;
        let configs = self.configs(self.material.secrets(limit).await?)?;
        let config = if carrying { configs.carrying } else { configs.plain };
        let handshake = async {
            let stream = TlsAcceptor::from(config).accept(io).await?;
            accepted(stream, carrying)
        };
        timeout(limit, handshake)
            .await
            .unwrap_or(Err(HandshakeError::Timeout(limit)))
    }

    /// The configurations for these secrets. When they are of no use the last good ones stay.
    fn configs(&self, secrets: Secrets) -> Result<Configs, HandshakeError> {
        let mut built = self.built.lock();
        if let Some(built) = &*built
            && built.secrets.same(&secrets)
        {
            return Ok(built.configs.clone());
        }
        let configs = match (self.build(&secrets), &*built) {
            (Ok(configs), _) => configs,
            (Err(error), None) => return Err(error),
            (Err(error), Some(last)) => {
                warn!(%error, "new secrets are not usable; the last good ones stay in use");
                last.configs.clone()
            }
        };
        *built = Some(Built {
            secrets,
            configs: configs.clone(),
        });
        Ok(configs)
    }

    fn build(&self, secrets: &Secrets) -> Result<Configs, HandshakeError> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(versions(self.min, self.max))
            .map_err(|error| unusable(error.to_string()))?;
        let builder = match secrets.trust()? {
            Some(trust) => {
                let names = self.names.iter().cloned().chain(trust.names).collect();
                let verifier =
                    ClientVerifier::new(trust.roots, Expected::Names(names), self.require_certificate)?;
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
            None if self.require_certificate => {
                return Err(unusable(
                    "client certificates are required, but no roots are named to verify them",
                ));
            }
            None => builder.with_no_client_auth(),
        };
        let key = secrets
            .certified_key()?
            .ok_or_else(|| unusable("a server needs a certificate"))?;
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols.clone_from(&self.alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let mut carrying = config.clone();
        let names = self.alpn.iter().map(|name| [name, CARRYING.as_bytes()].concat());
        carrying.alpn_protocols = names.chain(self.alpn.iter().cloned()).collect();
        Ok(Configs {
            plain: Arc::new(config),
            carrying: Arc::new(carrying),
        })
    }
}

fn accepted<IO>(stream: TlsStream<IO>, carrying: bool) -> Result<Accepted<IO>, HandshakeError> {
    let (_, connection) = stream.get_ref();
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    let peer = match leaf.map(PeerIdentity::parse) {
        None => None,
        Some(Ok(peer)) => Some(Arc::new(peer)),
        Some(Err(error)) => return Err(unusable(error.to_string())),
    };
    let alpn = connection
        .alpn_protocol()
        .map(|name| String::from_utf8_lossy(name).into_owned());
    let sni = connection.server_name().map(str::to_owned);
    let agreed = alpn.as_ref().is_some_and(|name| name.ends_with(CARRYING));
    Ok(Accepted {
        stream,
        carries: carrying && agreed && peer.is_some(),
        peer,
        alpn,
        sni,
    })
}
