//! Reads a certificate signing request. Only its public key is taken; what else it says must not contradict
//! the token it came with.

use rcgen::{CertificateSigningRequestParams, PublicKeyData as _, SanType};

use super::Identity;

/// A P-256 request is under 1 KiB, one of RSA 4096 under 2.
const SIZE_LIMIT: usize = 16 * 1024;
const RSA_2048_BYTES: usize = 256;

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CsrError {
    /// Not a request, or its self-signature is wrong.
    #[error("not a usable PKCS #10 request: {0}")]
    Malformed(String),
    /// It names someone else.
    #[error("the request asks for the name {asked:?}, the token is for {identity}")]
    Identity {
        /// The name.
        asked: String,
        /// Whose token it is.
        identity: String,
    },
}

/// The request's public key as DER SubjectPublicKeyInfo.
pub(super) fn public_key(pem: &str, identity: &Identity) -> Result<Vec<u8>, CsrError> {
    if pem.len() > SIZE_LIMIT {
        return Err(CsrError::Malformed(format!("larger than {SIZE_LIMIT} bytes")));
    }
    let request = CertificateSigningRequestParams::from_pem(pem)
        .map_err(|error| CsrError::Malformed(error.to_string()))?;
    for name in &request.params.subject_alt_names {
        let (asked, fits) = match name {
            SanType::URI(uri) => (uri.as_str().to_owned(), uri.as_str() == identity.uri()),
            SanType::DnsName(dns) => (
                dns.as_str().to_owned(),
                identity.dns_name().as_deref() == Some(dns.as_str()),
            ),
            other => (format!("{other:?}"), false),
        };
        if !fits {
            return Err(CsrError::Identity {
                asked,
                identity: identity.to_string(),
            });
        }
    }
    let key = &request.public_key;
    if key.algorithm() == &rcgen::PKCS_RSA_SHA256 && key.der_bytes().len() < RSA_2048_BYTES {
        return Err(CsrError::Malformed("RSA keys need at least 2048 bits".to_owned()));
    }
    Ok(key.subject_public_key_info())
}
