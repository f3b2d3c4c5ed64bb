//! Mutual TLS between the two sidecars.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::PrivateKeyDer;
use weir_proxy::{
    model::{
        Certificate, Discovery, Endpoints, Secret, ServerTls, StringMatcher, TlsVersion, TrustBundle,
        UpstreamTls,
    },
    xds::{State, Store},
};

use super::change;

/// Who the process is.
pub const ME: &str = "spiffe://cluster.local/ns/shop/sa/buyer";

/// Gives the process one identity, under a root of its own.
pub fn certify(store: &Store) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(ME.try_into().unwrap())];
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    let certificate = Certificate {
        chain: vec![leaf.der().clone()],
        key: Arc::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap()),
    };
    let roots = TrustBundle {
        roots: vec![root_certificate.der().clone()],
        subject_alt_names: Vec::new(),
    };
    store.publish(
        "workload-cert",
        State::Ready(Arc::new(Secret::Certificate(certificate))),
    );
    store.publish("trust-bundle", State::Ready(Arc::new(Secret::TrustBundle(roots))));
}

/// Puts mutual TLS between the two sidecars, whose endpoint must prove to be `expected`.
pub async fn secure(store: &Store, listener: &str, cluster: &str, expected: &str) {
    change::chains(store, listener, |chain| {
        chain.tls = Some(Arc::new(ServerTls {
            certificate: "workload-cert".to_owned(),
            trust_bundle: Some("trust-bundle".to_owned()),
            inline_trust: None,
            subject_alt_names: Vec::new(),
            require_client_certificate: true,
            alpn: vec!["osm".to_owned()],
            min_version: TlsVersion::V1_3,
            max_version: TlsVersion::V1_3,
            algorithms: Default::default(),
        }));
    })
    .await;
    change::cluster(store, cluster, |cluster| {
        cluster.tls = Some(Arc::new(UpstreamTls {
            sni: "app.shop".to_owned(),
            alpn: vec!["osm".to_owned()],
            certificate: Some("workload-cert".to_owned()),
            trust_bundle: Some("trust-bundle".to_owned()),
            inline_trust: None,
            subject_alt_names: vec![StringMatcher::Exact("spiffe://never/used".to_owned())],
            min_version: TlsVersion::V1_3,
            max_version: TlsVersion::V1_3,
            algorithms: Default::default(),
        }));
        if let Discovery::Static(endpoints) = &mut cluster.discovery {
            let mut pinned = Endpoints::clone(endpoints);
            for endpoint in &mut pinned.endpoints {
                endpoint.principal = Some(expected.into());
            }
            *endpoints = Arc::new(pinned);
        }
    })
    .await;
}
