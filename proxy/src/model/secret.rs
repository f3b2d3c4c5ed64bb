//! Secrets, after `envoy.extensions.transport_sockets.tls.v3.Secret`.

use std::{fmt, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::StringMatcher;

/// A named secret.
#[derive(Clone, Debug, PartialEq)]
pub enum Secret {
    /// A certificate chain and its key.
    Certificate(Certificate),
    /// Roots to trust, and names to expect.
    TrustBundle(TrustBundle),
}

/// A certificate chain, leaf first, and its key.
#[derive(Clone)]
pub struct Certificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key. Never printed, never sent.
    pub key: Arc<PrivateKeyDer<'static>>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("chain", &self.chain.len())
            .field("key", &"[redacted]")
            .finish()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

/// Roots, and optionally the names that a peer's certificate must carry (URI or DNS SANs; any one suffices).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustBundle {
    /// DER certificates.
    pub roots: Vec<CertificateDer<'static>>,
    /// Names to expect; empty means any name under the roots.
    pub subject_alt_names: Vec<StringMatcher>,
}
