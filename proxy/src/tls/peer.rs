//! Who the peer is, by its certificate.

use rustls_pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

/// The names in a verified certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// URI SANs: at most one, the SPIFFE ID.
    pub uris: Vec<String>,
    /// DNS SANs.
    pub dns: Vec<String>,
    /// Subject, as RFC 2253 writes it.
    pub subject: String,
}

/// Why a certificate's names cannot be relied on, or are not the ones expected.
#[derive(Debug, thiserror::Error)]
pub enum PeerIdentityError {
    /// Not a certificate, or its names are not readable.
    #[error("the peer's certificate cannot be read: {0}")]
    Malformed(String),
    /// More than one URI SAN.
    #[error("the peer's certificate carries {0} URI SANs; an X.509-SVID has exactly one")]
    ManyUris(usize),
    /// Someone else.
    #[error("the peer is {found}, expected {expected}")]
    Unexpected {
        /// Who it is.
        found: String,
        /// Who it should be.
        expected: String,
    },
}

impl PeerIdentity {
    /// Reads the names of a certificate. Whether it is to be trusted is not looked at.
    ///
    /// # Errors
    /// When it is malformed or carries several URI SANs (X509-SVID section 2: such a certificate is refused).
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, PeerIdentityError> {
        let malformed = |error: &dyn std::fmt::Display| PeerIdentityError::Malformed(error.to_string());
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate)
            .map_err(|error| malformed(&error))?;
        let mut identity = Self {
            subject: certificate.subject().to_string(),
            ..Self::default()
        };
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| malformed(&error))?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => identity.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => identity.dns.push((*name).to_owned()),
                GeneralName::Invalid(..) => {
                    return Err(malformed(&"a subject alternative name is not valid"));
                }
                _ => {}
            }
        }
        match identity.uris.len() {
            0 | 1 => Ok(identity),
            many => Err(PeerIdentityError::ManyUris(many)),
        }
    }

    /// The SPIFFE ID, if it has one.
    pub fn principal(&self) -> Option<&str> {
        self.uris.first().map(String::as_str)
    }

    /// What to call it in a log: the SPIFFE ID, else a DNS name, else the subject.
    pub fn label(&self) -> &str {
        self.principal()
            .or_else(|| self.dns.first().map(String::as_str))
            .unwrap_or(&self.subject)
    }
}
