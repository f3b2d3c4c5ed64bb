//! Verification of peers: the chain to our roots first, then the names. Host names play no part.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{
    HandshakeError, PeerIdentity, PeerIdentityError, material::unusable, names, provider, verified::Verified,
};
use crate::model::StringMatcher;

/// Who the peer must be.
#[derive(Debug, PartialEq)]
pub(super) enum Expected {
    /// Exactly this URI SAN.
    Principal(Box<str>),
    /// One of these, among URI and DNS SANs; empty: anyone under the roots.
    Names(Arc<[StringMatcher]>),
}

impl Expected {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<Arc<PeerIdentity>, Error> {
        let identity = PeerIdentity::parse(certificate).map_err(refuse)?;
        let (fits, expected) = match self {
            Self::Principal(wanted) => (identity.principal() == Some(&**wanted), None),
            Self::Names(wanted) => (
                wanted.is_empty() || names::any_matches(&identity, wanted),
                Some(wanted),
            ),
        };
        if fits {
            return Ok(Arc::new(identity));
        }
        Err(refuse(PeerIdentityError::Unexpected {
            found: identity.label().to_owned(),
            expected: match (self, expected) {
                (Self::Principal(wanted), _) => wanted.to_string(),
                (_, Some(wanted)) => names::describe(wanted),
                (_, None) => String::new(),
            },
        }))
    }
}

/// Whether a chain, leaf first, leads to one of the roots.
pub(super) fn leads_to(chain: &[CertificateDer<'_>], roots: &RootCertStore, now: UnixTime) -> bool {
    let [leaf, intermediates @ ..] = chain else {
        return false;
    };
    let algorithms = provider().signature_verification_algorithms.all;
    ParsedCertificate::try_from(leaf).is_ok_and(|leaf| {
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms).is_ok()
    })
}

fn refuse(error: PeerIdentityError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Verifies a server.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) expected: Expected,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) verified: Verified,
}

impl ServerVerifier {
    /// Who a chain, leaf first, belongs to, if it is good at this time.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn identify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<PeerIdentity>, Error> {
        if let Some(peer) = self.verified.find(end_entity, intermediates, now) {
            return Ok(peer);
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let peer = self.expected.check(end_entity)?;
        self.verified.keep(end_entity, intermediates, &peer);
        Ok(peer)
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.identify(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Verifies a client.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    expected: Expected,
    verified: Verified,
}

impl ClientVerifier {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        expected: Expected,
        required: bool,
    ) -> Result<Self, HandshakeError> {
        // No list of issuers is sent: it tells strangers whom we trust, and every sidecar has one certificate only.
        let builder =
            WebPkiClientVerifier::builder_with_provider(roots, provider()).clear_root_hint_subjects();
        let builder = if required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        let chain = builder
            .build()
            .map_err(|error| unusable(format!("client certificates cannot be verified: {error}")))?;
        Ok(Self {
            chain,
            expected,
            verified: Verified::default(),
        })
    }

    /// Who a chain, leaf first, belongs to, if it is good at this time.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn identify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<PeerIdentity>, Error> {
        if let Some(peer) = self.verified.find(end_entity, intermediates, now) {
            return Ok(peer);
        }
        self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let peer = self.expected.check(end_entity)?;
        self.verified.keep(end_entity, intermediates, &peer);
        Ok(peer)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.identify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
