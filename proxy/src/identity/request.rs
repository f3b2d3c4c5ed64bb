//! A signing request, and what comes back for it. Pure, but for the key's randomness.

use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::model::Certificate;

/// Why no certificate was obtained.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The token cannot be read.
    #[error("cannot read the ServiceAccount token {path}: {source}; is the projected volume mounted there?")]
    Token {
        /// Where it should be.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The token is not one line of text.
    #[error("the ServiceAccount token {0} is empty or not ASCII text")]
    BadToken(String),
    /// No key or request could be made.
    #[error("cannot make a key and signing request: {0}")]
    Request(#[from] rcgen::Error),
    /// There is no connection to the signer.
    #[error("no connection to the certificate signer: {0}")]
    Channel(String),
    /// The signer did not answer in time.
    #[error("the certificate signer did not answer within {0:?}; is the controller overloaded?")]
    Timeout(std::time::Duration),
    /// The signer refused.
    #[error("the certificate signer refused ({code:?}): {message}")]
    Refused {
        /// The gRPC status.
        code: tonic::Code,
        /// What it said.
        message: String,
    },
    /// What was signed is of no use.
    #[error("the certificate signer's answer is of no use: {0}")]
    Malformed(String),
    /// The proxy beside this one cannot be given the certificate.
    #[error("cannot write {path}: {source}; is the directory mounted, and may user 1500 write there?")]
    Files {
        /// The file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
}

/// What came back for a request.
pub(super) struct Signed {
    pub(super) certificate: Certificate,
    /// The roots that the chain ended in, as the signer sent them.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// A fresh key, and the request to have it signed.
pub(super) struct Request {
    key: KeyPair,
    /// PEM.
    pub(super) csr: String,
}

impl Request {
    /// Makes a P-256 key. The request names no one: the signer knows from the token who asks.
    pub(super) fn new() -> Result<Self, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?.pem()?;
        Ok(Self { key, csr })
    }

    /// Puts the answer, PEM certificates from the leaf to the root, together with the key.
    pub(super) fn complete(self, pems: &[String]) -> Result<Signed, IssueError> {
        let malformed = |text: &str| IssueError::Malformed(text.to_owned());
        let mut chain = Vec::new();
        for pem in pems {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                chain.push(certificate.map_err(|error| IssueError::Malformed(error.to_string()))?);
            }
        }
        let leaf = chain
            .first()
            .ok_or_else(|| malformed("it holds no certificate"))?;
        let (_, leaf) =
            X509Certificate::from_der(leaf).map_err(|_| malformed("the leaf is not a certificate"))?;
        if leaf.public_key().subject_public_key.data != self.key.public_key_raw() {
            return Err(malformed("the certificate is for another key"));
        }
        // Peers have the root already; sending it would only lengthen each handshake.
        let issuers = chain.split_off(1);
        let (roots, intermediates): (Vec<_>, Vec<_>) = issuers.into_iter().partition(self_issued);
        chain.extend(intermediates);
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let certificate = Certificate {
            chain,
            key: Arc::new(PrivateKeyDer::Pkcs8(key)),
        };
        Ok(Signed { certificate, roots })
    }
}

fn self_issued(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.subject() == parsed.issuer())
}
