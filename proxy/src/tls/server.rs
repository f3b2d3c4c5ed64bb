//! TLS towards clients.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::{
    ServerConfig, ServerConnection,
    crypto::{CryptoProvider, aws_lc_rs::Ticketer},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::warn;

use super::{
    Carried, HandshakeError, PeerIdentity,
    material::{Material, Secrets, unusable},
    only_tls13, provider_with,
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
    /// Whether it carries what was asked for: both sides are sidecars that know how, and have proved who they are.
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
    clock: Arc<dyn TimeProvider>,
    built: Mutex<Option<Built>>,
}

struct Built {
    secrets: Secrets,
    configured: Configured,
}

/// Configurations of rustls, and what verifies clients under them. They have a key for tickets of their own: a
/// session ends with the certificate, the roots and the names that it began under.
#[derive(Clone)]
struct Configured {
    plain: Arc<ServerConfig>,
    /// With each protocol `x` as `x-h1h2` too.
    requests: Arc<ServerConfig>,
    /// With each protocol `x` as `x-connect` too.
    connections: Arc<ServerConfig>,
    verifier: Option<Arc<ClientVerifier>>,
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
            clock: Arc::new(DefaultTimeProvider),
            built: Mutex::new(None),
        }
    }

    #[cfg(test)]
    pub(super) fn at(self, clock: Arc<dyn TimeProvider>) -> Self {
        Self { clock, ..self }
    }

    /// Does the handshake within `limit`. Secrets not yet there are waited for as long before. A client that must show
    /// a certificate may agree on HTTP/2 that carries `carried`.
    ///
    /// # Errors
    /// When the client is refused or refuses, and when it takes too long.
    pub async fn accept<IO>(
        &self,
        io: IO,
        limit: Duration,
        carried: Option<Carried>,
    ) -> Result<Accepted<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let carried = carried.filter(|_| self.require_certificate);
        let configured = self.configured(self.material.secrets(limit).await?)?;
        let config = match carried {
            None => &configured.plain,
            Some(Carried::Requests) => &configured.requests,
            Some(Carried::Connections) => &configured.connections,
        };
        let handshake = async {
            let stream = TlsAcceptor::from(config.clone()).accept(io).await?;
            let peer = configured.peer(stream.get_ref().1)?;
            Ok(accepted(stream, peer, carried))
        };
        timeout(limit, handshake)
            .await
            .unwrap_or(Err(HandshakeError::Timeout(limit)))
    }

    /// The configurations for these secrets. When they are of no use the last good ones stay.
    fn configured(&self, secrets: Secrets) -> Result<Configured, HandshakeError> {
        let mut built = self.built.lock();
        if let Some(built) = &*built
            && built.secrets.same(&secrets)
        {
            return Ok(built.configured.clone());
        }
        let configured = match (self.build(&secrets), &*built) {
            (Ok(configured), _) => configured,
            (Err(error), None) => return Err(error),
            (Err(error), Some(last)) => {
                warn!(%error, "new secrets are not usable; the last good ones stay in use");
                last.configured.clone()
            }
        };
        *built = Some(Built {
            secrets,
            configured: configured.clone(),
        });
        Ok(configured)
    }

    fn build(&self, secrets: &Secrets) -> Result<Configured, HandshakeError> {
        let builder = ServerConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(versions(self.min, self.max))
            .map_err(|error| unusable(error.to_string()))?;
        let verifier = match secrets.trust()? {
            Some(trust) => {
                let names = self.names.iter().cloned().chain(trust.names).collect();
                let expected = Expected::Names(names);
                Some(Arc::new(ClientVerifier::new(
                    trust.roots,
                    expected,
                    self.require_certificate,
                )?))
            }
            None if self.require_certificate => {
                return Err(unusable(
                    "client certificates are required, but no roots are named to verify them",
                ));
            }
            None => None,
        };
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let key = secrets
            .certified_key()?
            .ok_or_else(|| unusable("a server needs a certificate"))?;
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols.clone_from(&self.alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // Before 1.3 whoever has a ticket's key reads what was said under it, later too.
        if only_tls13(self.min, self.max) {
            config.ticketer = Ticketer::new().map_err(|error| unusable(error.to_string()))?;
            // One for the next connection; that brings another.
            config.send_tls13_tickets = 1;
        }
        let carrying = |carried: Carried| {
            let mut config = config.clone();
            let names = self.alpn.iter();
            let names = names.map(|name| [name, carried.suffix().as_bytes()].concat());
            config.alpn_protocols = names.chain(self.alpn.iter().cloned()).collect();
            Arc::new(config)
        };
        Ok(Configured {
            requests: carrying(Carried::Requests),
            connections: carrying(Carried::Connections),
            plain: Arc::new(config),
            verifier,
        })
    }
}

impl Configured {
    /// Who the client is. Its certificate is looked at again: rustls does not when a session was resumed, and it may
    /// have expired since.
    fn peer(&self, connection: &ServerConnection) -> Result<Option<Arc<PeerIdentity>>, HandshakeError> {
        let (Some(verifier), Some([leaf, intermediates @ ..])) =
            (&self.verifier, connection.peer_certificates())
        else {
            return Ok(None);
        };
        let now = self.plain.time_provider.current_time();
        let now = now.ok_or(HandshakeError::Refused(rustls::Error::FailedToGetCurrentTime))?;
        let peer = verifier.identify(leaf, intermediates, now);
        peer.map(Some).map_err(HandshakeError::Refused)
    }
}

fn accepted<IO>(
    stream: TlsStream<IO>,
    peer: Option<Arc<PeerIdentity>>,
    carried: Option<Carried>,
) -> Accepted<IO> {
    let (_, connection) = stream.get_ref();
    let alpn = connection
        .alpn_protocol()
        .map(|name| String::from_utf8_lossy(name).into_owned());
    let sni = connection.server_name().map(str::to_owned);
    let agreed = alpn.as_ref().zip(carried);
    let agreed = agreed.is_some_and(|(name, carried)| name.ends_with(carried.suffix()));
    Accepted {
        stream,
        carries: agreed && peer.is_some(),
        peer,
        alpn,
        sni,
    }
}
