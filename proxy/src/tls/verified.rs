//! Chains that were found good, so that a peer that comes back is not verified from the start.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::PeerIdentity;

/// Chains kept. A service rarely has more callers at a time.
const KEPT: usize = 128;
/// Bytes of a chain that is kept; X.509-SVIDs are far smaller.
const LARGEST: usize = 8 * 1024;

/// The chains that lead to one set of roots, and whose names are among those that are expected: what was found once
/// stays true for as long as every certificate is valid. Dropped with the roots and the names.
#[derive(Debug, Default)]
pub(super) struct Verified {
    by_leaf: Mutex<HashMap<Box<[u8]>, Chain>>,
}

#[derive(Debug)]
struct Chain {
    intermediates: Box<[CertificateDer<'static>]>,
    /// When all of its certificates are valid, in seconds since 1970, both ends included.
    valid: (i64, i64),
    peer: Arc<PeerIdentity>,
}

impl Verified {
    /// Who this chain is, if it was found good, byte for byte, and is valid now.
    pub(super) fn find(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<Arc<PeerIdentity>> {
        let by_leaf = self.by_leaf.lock();
        let chain = by_leaf.get(leaf.as_ref())?;
        let now = i64::try_from(now.as_secs()).ok()?;
        let (from, until) = chain.valid;
        (from <= now && now <= until && *chain.intermediates == *intermediates).then(|| chain.peer.clone())
    }

    /// Remembers a chain that was found good.
    pub(super) fn keep(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        peer: &Arc<PeerIdentity>,
    ) {
        let size = leaf.len() + intermediates.iter().map(|one| one.len()).sum::<usize>();
        let Some(valid) = validity(leaf, intermediates).filter(|_| size <= LARGEST) else {
            return;
        };
        let mut by_leaf = self.by_leaf.lock();
        if by_leaf.len() >= KEPT {
            by_leaf.clear();
        }
        let chain = Chain {
            intermediates: intermediates.iter().map(|one| one.clone().into_owned()).collect(),
            valid,
            peer: peer.clone(),
        };
        by_leaf.insert(leaf.as_ref().into(), chain);
    }
}

/// When all of them are valid. All, though the path to the root may go without some: that errs to the safe side.
fn validity(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<(i64, i64)> {
    let mut valid = (i64::MIN, i64::MAX);
    for certificate in std::iter::once(leaf).chain(intermediates) {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let of_one = certificate.validity();
        valid.0 = valid.0.max(of_one.not_before.timestamp());
        valid.1 = valid.1.min(of_one.not_after.timestamp());
    }
    Some(valid)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::Secret,
        tls::testing::{Ca, Leaf},
    };

    fn chain(ca: &Ca, seconds: i64) -> CertificateDer<'static> {
        let issued = ca.issue(&Leaf {
            uris: &["spiffe://cluster.local/ns/shop/sa/buyer"],
            dns: &[],
            valid: (-60, seconds),
        });
        let Secret::Certificate(certificate) = &*issued else {
            panic!("a leaf is a certificate");
        };
        certificate.chain[0].clone()
    }

    fn after(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + seconds))
    }

    #[test]
    fn a_chain_is_found_while_all_of_it_is_valid() {
        let ca = Ca::new();
        let (leaf, short) = (chain(&ca, 600), chain(&ca, 300));
        let verified = Verified::default();
        let peer = Arc::new(PeerIdentity::parse(&leaf).unwrap());
        verified.keep(&leaf, std::slice::from_ref(&short), &peer);
        let found = |leaf, intermediates: &[CertificateDer<'_>], now| {
            verified.find(leaf, intermediates, now).is_some()
        };
        assert!(found(&leaf, std::slice::from_ref(&short), after(0)));
        assert!(found(&leaf, std::slice::from_ref(&short), after(290)));
        assert!(!found(&leaf, std::slice::from_ref(&short), after(310)));
        let before = UnixTime::since_unix_epoch(Duration::from_secs(1));
        assert!(!found(&leaf, std::slice::from_ref(&short), before));
    }

    #[test]
    fn another_chain_is_not_found() {
        let ca = Ca::new();
        let (leaf, other) = (chain(&ca, 600), chain(&ca, 600));
        let verified = Verified::default();
        let peer = Arc::new(PeerIdentity::parse(&leaf).unwrap());
        verified.keep(&leaf, &[], &peer);
        assert!(verified.find(&leaf, &[], after(0)).is_some());
        assert!(verified.find(&other, &[], after(0)).is_none());
        assert!(
            verified
                .find(&leaf, std::slice::from_ref(&other), after(0))
                .is_none()
        );
    }

    #[test]
    fn chains_are_bounded() {
        let verified = Verified::default();
        let leaf = chain(&Ca::new(), 600);
        let peer = Arc::new(PeerIdentity::parse(&leaf).unwrap());
        let many = vec![leaf.clone(); LARGEST / leaf.len() + 1];
        verified.keep(&leaf, &many, &peer);
        assert!(verified.by_leaf.lock().is_empty());
        for _ in 0..2 * KEPT {
            // Distinct bytes that still parse: what follows the certificate is not part of it.
            let mut bytes = leaf.to_vec();
            bytes.extend_from_slice(&verified.by_leaf.lock().len().to_be_bytes());
            verified.keep(&CertificateDer::from(bytes), &[], &peer);
        }
        assert!(verified.by_leaf.lock().len() <= KEPT);
    }
}
