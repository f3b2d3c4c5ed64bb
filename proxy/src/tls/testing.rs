//! Certificates for tests.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::model::{Certificate, Secret, TrustBundle};

/// A root.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: CertificateDer<'static>,
    pub(crate) pem: String,
}

/// What a leaf says.
pub(crate) struct Leaf<'a> {
    pub(crate) uris: &'a [&'a str],
    pub(crate) dns: &'a [&'a str],
    /// Seconds from now, both ways.
    pub(crate) valid: (i64, i64),
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "root");
        let certificate = params.self_signed(&key).unwrap();
        Self {
            root: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A good certificate for one principal.
    pub(crate) fn leaf(&self, uri: &str) -> Arc<Secret> {
        self.issue(&Leaf {
            uris: &[uri],
            dns: &[],
            valid: (-60, 3600),
        })
    }

    pub(crate) fn issue(&self, leaf: &Leaf<'_>) -> Arc<Secret> {
        let key = KeyPair::generate().unwrap();
        let certificate = params(leaf).signed_by(&key, &self.issuer).unwrap();
        Arc::new(Secret::Certificate(Certificate {
            chain: vec![certificate.der().clone()],
            key: Arc::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
                key.serialize_der(),
            ))),
        }))
    }

    /// Signs a request's key; what else the request says is not looked at.
    pub(crate) fn sign(&self, csr: &str, leaf: &Leaf<'_>) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params = params(leaf);
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

fn params(leaf: &Leaf<'_>) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "uid");
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let uris = leaf
        .uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()));
    let dns = leaf
        .dns
        .iter()
        .map(|name| SanType::DnsName((*name).try_into().unwrap()));
    params.subject_alt_names = uris.chain(dns).collect();
    let at = |seconds: i64| {
        let offset = Duration::from_secs(seconds.unsigned_abs());
        let now = SystemTime::now();
        if seconds < 0 { now - offset } else { now + offset }
    };
    params.not_before = at(leaf.valid.0).into();
    params.not_after = at(leaf.valid.1).into();
    params
}

/// Roots.
pub(crate) fn bundle(cas: &[&Ca]) -> Arc<Secret> {
    Arc::new(Secret::TrustBundle(TrustBundle {
        roots: cas.iter().map(|ca| ca.root.clone()).collect(),
        subject_alt_names: Vec::new(),
    }))
}
