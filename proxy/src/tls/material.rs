//! The secrets behind one side's configuration, and what they are turned into.

use std::{sync::Arc, time::Duration};

use rustls::{RootCertStore, sign::CertifiedKey};
use tokio::time::timeout;
use tracing::warn;

use super::{HandshakeError, provider};
use crate::{
    model::{Secret, StringMatcher, TrustBundle},
    xds::{State, Store, Watched},
};

/// Where a side's certificate and roots come from.
pub(super) struct Material {
    certificate: Option<Named>,
    trust: Option<Named>,
}

struct Named {
    name: String,
    source: Source,
}

enum Source {
    Watched(Watched<Secret>),
    Inline(Arc<Secret>),
}

/// The secrets as they are at a time. Two are the same when they are the same allocations.
#[derive(Clone, Default)]
pub(super) struct Secrets {
    certificate: Option<Arc<Secret>>,
    trust: Option<Arc<Secret>>,
}

/// Roots, ready for verification, and the names that the bundle expects.
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) names: Vec<StringMatcher>,
}

impl Material {
    pub(super) fn new(
        store: &Store,
        certificate: Option<&str>,
        trust: Option<&str>,
        inline: Option<&TrustBundle>,
    ) -> Self {
        let watched = |name: &str| Named {
            name: name.to_owned(),
            source: Source::Watched(store.watch(name)),
        };
        let inline = inline.map(|bundle| Named {
            name: "trusted_ca".to_owned(),
            source: Source::Inline(Arc::new(Secret::TrustBundle(bundle.clone()))),
        });
        Self {
            certificate: certificate.map(watched),
            trust: trust.map(watched).or(inline),
        }
    }

    /// The newest secrets; waits for those that have not arrived, each for as long as `limit`.
    pub(super) async fn secrets(&self, limit: Duration) -> Result<Secrets, HandshakeError> {
        Ok(Secrets {
            certificate: get(self.certificate.as_ref(), limit).await?,
            trust: get(self.trust.as_ref(), limit).await?,
        })
    }
}

async fn get(named: Option<&Named>, limit: Duration) -> Result<Option<Arc<Secret>>, HandshakeError> {
    let Some(Named { name, source }) = named else {
        return Ok(None);
    };
    let watched = match source {
        Source::Inline(secret) => return Ok(Some(secret.clone())),
        Source::Watched(watched) => watched,
    };
    let secret = match watched.current() {
        State::Ready(secret) => Some(secret),
        State::Absent => None,
        State::Pending => timeout(limit, watched.clone().answered()).await.ok().flatten(),
    };
    match secret {
        Some(secret) => Ok(Some(secret)),
        None => Err(HandshakeError::Missing { name: name.clone() }),
    }
}

impl Secrets {
    pub(super) fn same(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Secret>>, b: &Option<Arc<Secret>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same(&self.certificate, &other.certificate) && same(&self.trust, &other.trust)
    }

    /// Our certificate with its key; `None` when the configuration names none.
    pub(super) fn certified_key(&self) -> Result<Option<Arc<CertifiedKey>>, HandshakeError> {
        let Some(secret) = &self.certificate else {
            return Ok(None);
        };
        let Secret::Certificate(certificate) = &**secret else {
            return Err(unusable(
                "the secret named for our certificate holds a trust bundle",
            ));
        };
        if certificate.chain.is_empty() {
            return Err(unusable("the certificate chain is empty"));
        }
        CertifiedKey::from_der(
            certificate.chain.clone(),
            certificate.key.clone_key(),
            &provider(),
        )
        .map(|key| Some(Arc::new(key)))
        .map_err(|error| unusable(format!("the certificate and its key do not fit: {error}")))
    }

    /// The roots; `None` when the configuration names none.
    pub(super) fn trust(&self) -> Result<Option<Trust>, HandshakeError> {
        let Some(secret) = &self.trust else {
            return Ok(None);
        };
        let Secret::TrustBundle(bundle) = &**secret else {
            return Err(unusable(
                "the secret named for the roots holds a certificate and key",
            ));
        };
        let mut roots = RootCertStore::empty();
        let (_, unread) = roots.add_parsable_certificates(bundle.roots.iter().cloned());
        if unread > 0 {
            warn!(
                unread,
                "certificates of the trust bundle were left out: not readable as roots"
            );
        }
        if roots.is_empty() {
            return Err(unusable("the trust bundle has no usable root"));
        }
        Ok(Some(Trust {
            roots: Arc::new(roots),
            names: bundle.subject_alt_names.clone(),
        }))
    }
}

pub(super) fn unusable(text: impl Into<String>) -> HandshakeError {
    HandshakeError::Unusable(text.into())
}
