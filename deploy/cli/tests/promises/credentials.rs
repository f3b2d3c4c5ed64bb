//! Certificates that are shown to the mesh: its own, and made-up ones.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    scene::EXCHANGE,
    world::{World, within},
};

/// Application protocol between sidecars.
pub(crate) const MESH_PROTOCOL: &[u8] = b"osm";
const HOUR: Duration = Duration::from_secs(3600);

/// Who signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

/// A certificate and its key.
pub(crate) struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Authority {
    /// The mesh's own, by the key in the controller's state directory.
    pub(crate) fn of_mesh(world: &World) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = world.state_dir().join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (certificate, key) = (read("ca.crt")?, KeyPair::from_pem(&read("ca.key")?)?);
        let root = pem(&certificate)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&root, key)?,
            root,
        })
    }

    /// One that nobody trusts.
    pub(crate) fn stranger() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "A stranger's root");
        let root = params.self_signed(&key)?.der().clone();
        Ok(Self {
            issuer: Issuer::new(params, key),
            root,
        })
    }

    /// A certificate for a SPIFFE identity, valid for an hour from now.
    pub(crate) fn sign(&self, identity: &str) -> anyhow::Result<Credentials> {
        let now = SystemTime::now();
        self.sign_for(identity, now - HOUR, now + HOUR)
    }

    /// A certificate that has expired.
    pub(crate) fn sign_expired(&self, identity: &str) -> anyhow::Result<Credentials> {
        let now = SystemTime::now();
        self.sign_for(identity, now - 2 * HOUR, now - HOUR)
    }

    fn sign_for(&self, identity: &str, begins: SystemTime, ends: SystemTime) -> anyhow::Result<Credentials> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "made by a test");
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        (params.not_before, params.not_after) = (begins.into(), ends.into());
        let leaf = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Credentials {
            chain: vec![leaf, self.root.clone()],
            key: key.serialize_der(),
        })
    }
}

fn pem(text: &str) -> anyhow::Result<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    Ok(CertificateDer::from_pem_slice(text.as_bytes())?)
}

impl Credentials {
    /// What somebody else signed: a PEM chain for a key.
    pub(crate) fn signed(chain: &[String], key: &KeyPair) -> anyhow::Result<Self> {
        Ok(Self {
            chain: chain.iter().map(|text| pem(text)).collect::<Result<_, _>>()?,
            key: key.serialize_der(),
        })
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    /// A server that shows them and asks for nothing.
    pub(crate) fn server(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key())?;
        config.alpn_protocols = vec![MESH_PROTOCOL.to_vec()];
        Ok(Arc::new(config))
    }

    /// A client that shows them and believes every server.
    pub(crate) fn client(&self) -> anyhow::Result<ClientConfig> {
        let config = believing(&[&TLS13])?.with_client_auth_cert(self.chain.clone(), self.key())?;
        Ok(speaking(config, MESH_PROTOCOL))
    }
}

/// A client that shows nothing and believes every server.
pub(crate) fn nobody(versions: &[&'static SupportedProtocolVersion]) -> anyhow::Result<ClientConfig> {
    Ok(speaking(
        believing(versions)?.with_no_client_auth(),
        MESH_PROTOCOL,
    ))
}

/// The same client with another application protocol.
pub(crate) fn speaking(mut config: ClientConfig, protocol: &[u8]) -> ClientConfig {
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// Shakes hands as the client. In TLS 1.3 a client learns only later that it was refused.
pub(crate) async fn shake(to: SocketAddr, config: ClientConfig) -> anyhow::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(config));
    let handshake = async {
        let stream = TcpStream::connect(to).await?;
        connector
            .connect(ServerName::try_from("server.example")?, stream)
            .await
            .context("the handshake failed")
    };
    within(EXCHANGE, "the handshake", handshake).await?
}

/// A client that trusts the mesh's root, to speak with the controller.
pub(crate) fn to_controller(world: &World, shown: Option<&Credentials>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(pem(&fs::read_to_string(world.state_dir().join("ca.crt"))?)?)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match shown {
        Some(shown) => config.with_client_auth_cert(shown.chain.clone(), shown.key())?,
        None => config.with_no_client_auth(),
    };
    Ok(speaking(config, b"h2"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::aws_lc_rs::default_provider())
}

fn believing(
    versions: &[&'static SupportedProtocolVersion],
) -> anyhow::Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer(provider()))))
}

/// Believes every server, but not that it has a key which it has not.
#[derive(Debug)]
struct Believer(Arc<CryptoProvider>);

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
