//! TLS towards a cluster's endpoints.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore,
    client::{Resumption, Tls12Resumption},
    crypto::CryptoProvider,
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::warn;

use super::{
    BYTES, Carried, HandshakeError,
    material::{Material, Secrets, unusable},
    only_tls13, provider, provider_with,
    tickets::Tickets,
    verified::Verified,
    verify::{Expected, ServerVerifier},
    versions,
};
use crate::{
    model::{StringMatcher, TlsVersion, UpstreamTls},
    xds::Store,
};

/// Configurations kept for one cluster. A service rarely has more than one identity and two protocols, so the
/// bound only matters when something churns.
const KEPT: usize = 64;

/// Who the endpoint must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin<'a> {
    /// Exactly this SPIFFE ID.
    Principal(&'a str),
    /// Any of the names in the cluster's configuration and its trust bundle.
    Cluster,
}

/// A connection after its handshake.
pub struct Originated<IO> {
    /// The bytes inside.
    pub stream: TlsStream<IO>,
    /// The application protocol agreed on.
    pub alpn: Option<String>,
}

/// TLS origination as one cluster configures it. Cheap to make; keep it while its cluster lives.
pub struct ClientSide {
    material: Material,
    names: Vec<StringMatcher>,
    sni: Option<ServerName<'static>>,
    alpn: Vec<String>,
    min: TlsVersion,
    max: TlsVersion,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn TimeProvider>,
    built: Mutex<Option<Built>>,
}

/// What the secrets were turned into, and the configurations made from it so far.
struct Built {
    secrets: Secrets,
    parts: Parts,
    configs: Vec<(Key, Configured)>,
}

/// A configuration of rustls, and what belongs to it: another pin, certificate or bundle shares none of it.
#[derive(Clone)]
struct Configured {
    config: Arc<ClientConfig>,
    verifier: Arc<ServerVerifier>,
    tickets: Arc<Tickets>,
}

#[derive(Clone)]
struct Parts {
    roots: Arc<RootCertStore>,
    names: Arc<[StringMatcher]>,
    key: Option<Arc<CertifiedKey>>,
}

struct Key {
    principal: Option<Box<str>>,
    alpn: Vec<Vec<u8>>,
}

impl Key {
    fn is(&self, pin: Pin<'_>, alpn: &[&str]) -> bool {
        let same_pin = match pin {
            Pin::Principal(principal) => self.principal.as_deref() == Some(principal),
            Pin::Cluster => self.principal.is_none(),
        };
        same_pin
            && self
                .alpn
                .iter()
                .map(Vec::as_slice)
                .eq(alpn.iter().map(|name| name.as_bytes()))
    }
}

impl ClientSide {
    /// Begins to watch the secrets that the configuration names.
    pub fn new(tls: &UpstreamTls, store: &Store) -> Self {
        let sni = match ServerName::try_from(tls.sni.clone()) {
            Ok(name @ ServerName::DnsName(_)) => Some(name),
            _ if tls.sni.is_empty() => None,
            _ => {
                warn!(sni = tls.sni, "not a DNS name: no SNI is sent");
                None
            }
        };
        let (certificate, trust) = (tls.certificate.as_deref(), tls.trust_bundle.as_deref());
        Self {
            material: Material::new(store, certificate, trust, tls.inline_trust.as_ref()),
            names: tls.subject_alt_names.clone(),
            sni,
            alpn: tls.alpn.clone(),
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

    /// The application protocols that the cluster's configuration names, preferred first.
    pub fn alpn(&self) -> &[String] {
        &self.alpn
    }

    /// Whether agreeing on this protocol means that HTTP/2 may carry `carried`.
    pub fn carries(&self, protocol: &str, carried: Carried) -> bool {
        let plain = protocol.strip_suffix(carried.suffix());
        let plain = plain.map(|plain| match carried {
            Carried::Requests => plain,
            Carried::Connections => plain.strip_suffix(BYTES).unwrap_or(plain),
        });
        plain.is_some_and(|plain| self.alpn.iter().any(|name| name == plain))
    }

    /// Does the handshake within `limit`. Secrets not yet there are waited for as long before. `alpn` is what is
    /// offered, preferred first. A session with `resumed` is gone on with if there is one: the endpoint's certificate
    /// must then still be good, as at first.
    ///
    /// In TLS 1.3 this is done before the server has looked at our certificate: that it refused shows at the first
    /// read ([`super::Failure::of`]).
    ///
    /// # Errors
    /// When the endpoint is refused or refuses, and when it takes too long.
    pub async fn connect<IO>(
        &self,
        io: IO,
        pin: Pin<'_>,
        alpn: &[&str],
        resumed: Option<SocketAddr>,
        limit: Duration,
    ) -> Result<Originated<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let configured = self.config(self.material.secrets(limit).await?, pin, alpn)?;
        // Before 1.3 whoever has a ticket's key reads what was said under it, later too.
        let resumed = resumed.filter(|_| only_tls13(self.min, self.max));
        let config = configured.towards(resumed);
        let handshake = async {
            // Where no SNI is sent rustls still wants a name; it is compared with nothing.
            let name = self
                .sni
                .clone()
                .unwrap_or_else(|| ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
            let stream = TlsConnector::from(config).connect(name, io).await?;
            if let Some(endpoint) = resumed {
                configured.check(stream.get_ref().1, endpoint)?;
            }
            Ok(originated(stream))
        };
        timeout(limit, handshake)
            .await
            .unwrap_or(Err(HandshakeError::Timeout(limit)))
    }

    /// The configuration for these secrets. When they are of no use the last good one stays.
    fn config(&self, secrets: Secrets, pin: Pin<'_>, alpn: &[&str]) -> Result<Configured, HandshakeError> {
        let mut built = self.built.lock();
        if !built.as_ref().is_some_and(|built| built.secrets.same(&secrets)) {
            let parts = match (self.parts(&secrets), built.take()) {
                (Ok(parts), _) => parts,
                (Err(error), None) => return Err(error),
                (Err(error), Some(last)) => {
                    warn!(%error, "new secrets are not usable; the last good ones stay in use");
                    last.parts
                }
            };
            *built = Some(Built {
                secrets,
                parts,
                configs: Vec::new(),
            });
        }
        let Some(built) = &mut *built else {
            return Err(unusable("no secrets"));
        };
        if let Some((_, config)) = built.configs.iter().find(|(key, _)| key.is(pin, alpn)) {
            return Ok(config.clone());
        }
        let key = Key {
            principal: match pin {
                Pin::Principal(principal) => Some(principal.into()),
                Pin::Cluster => None,
            },
            alpn: alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
        };
        let config = self.build(&built.parts, &key)?;
        if built.configs.len() >= KEPT {
            built.configs.clear();
        }
        built.configs.push((key, config.clone()));
        Ok(config)
    }

    fn parts(&self, secrets: &Secrets) -> Result<Parts, HandshakeError> {
        let trust = secrets
            .trust()?
            .ok_or_else(|| unusable("no roots are named to verify the endpoints with"))?;
        Ok(Parts {
            roots: trust.roots,
            names: self.names.iter().cloned().chain(trust.names).collect(),
            key: secrets.certified_key()?,
        })
    }

    fn build(&self, parts: &Parts, key: &Key) -> Result<Configured, HandshakeError> {
        let verifier = Arc::new(ServerVerifier {
            roots: parts.roots.clone(),
            expected: match &key.principal {
                Some(principal) => Expected::Principal(principal.clone()),
                None => Expected::Names(parts.names.clone()),
            },
            provider: provider(),
            verified: Verified::default(),
        });
        let builder = ClientConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(versions(self.min, self.max))
            .map_err(|error| unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match &parts.key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&key.alpn);
        config.enable_sni = self.sni.is_some();
        config.resumption = Resumption::disabled();
        Ok(Configured {
            config: Arc::new(config),
            verifier,
            tickets: Arc::default(),
        })
    }
}

impl Configured {
    /// The configuration for a connection to an endpoint whose sessions may be resumed, or without that.
    fn towards(&self, resumed: Option<SocketAddr>) -> Arc<ClientConfig> {
        let Some(endpoint) = resumed else {
            return self.config.clone();
        };
        let mut config = ClientConfig::clone(&self.config);
        config.resumption =
            Resumption::store(self.tickets.of(endpoint)).tls12_resumption(Tls12Resumption::Disabled);
        Arc::new(config)
    }

    /// Looks at the endpoint's certificate again when the session was resumed: rustls does not.
    fn check(&self, connection: &ClientConnection, endpoint: SocketAddr) -> Result<(), HandshakeError> {
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        let chain = connection.peer_certificates().unwrap_or_default();
        let checked = match chain {
            [leaf, intermediates @ ..] => match self.config.time_provider.current_time() {
                Some(now) => self.verifier.identify(leaf, intermediates, now),
                None => Err(rustls::Error::FailedToGetCurrentTime),
            },
            [] => Err(rustls::Error::NoCertificatesPresented),
        };
        checked.map(drop).map_err(|error| {
            self.tickets.forget(endpoint);
            HandshakeError::Refused(error)
        })
    }
}

fn originated<IO>(stream: TlsStream<IO>) -> Originated<IO> {
    let (_, connection) = stream.get_ref();
    let alpn = connection
        .alpn_protocol()
        .map(|name| String::from_utf8_lossy(name).into_owned());
    Originated { stream, alpn }
}
