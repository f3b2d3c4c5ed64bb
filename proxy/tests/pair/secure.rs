//! Mutual TLS between the two sidecars.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::PrivateKeyDer;
use weir_proxy::{
    model::Discovery,
    model::{
        Certificate, Cluster, Destination, Endpoints, FilterChain, Http, Listener, Route, RouteAction,
        RouteSource, RouteTable, Secret, ServerTls, StringMatcher, Terminal, TlsVersion, TrustBundle,
        UpstreamTls,
    },
    xds::{State, Store},
};

use super::soon;

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

pub async fn change_chain(store: &Store, listener: &str, change: impl Fn(&mut FilterChain)) {
    let mut changed = Listener::clone(&soon(store.watch::<Listener>(listener).answered()).await.unwrap());
    for chain in &mut changed.chains {
        change(Arc::make_mut(chain));
    }
    store.publish(listener, State::Ready(Arc::new(changed)));
}

/// Changes where the routes of a listener lead.
pub async fn change_destinations(store: &Store, listener: &str, change: impl Fn(&mut Destination)) {
    change_chain(store, listener, |chain| {
        let Terminal::Http(http) = &mut chain.terminal else {
            panic!("the listener serves HTTP");
        };
        let RouteSource::Inline(table) = &http.routes else {
            panic!("its routes are given in place");
        };
        let mut table = RouteTable::clone(table);
        for route in table.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
            let mut changed = Route::clone(route);
            if let RouteAction::Forward(destination) = &mut changed.action {
                change(destination);
            }
            *route = Arc::new(changed);
        }
        *http = Arc::new(Http {
            routes: RouteSource::Inline(Arc::new(table)),
            ..Http::clone(http)
        });
    })
    .await;
}

pub async fn change_cluster(store: &Store, cluster: &str, change: impl Fn(&mut Cluster)) {
    let mut changed = Cluster::clone(&soon(store.watch::<Cluster>(cluster).answered()).await.unwrap());
    change(&mut changed);
    store.publish(cluster, State::Ready(Arc::new(changed)));
}

/// Puts mutual TLS between the two sidecars, whose endpoint must prove to be `expected`.
pub async fn secure(store: &Store, listener: &str, cluster: &str, expected: &str) {
    change_chain(store, listener, |chain| {
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
    change_cluster(store, cluster, |cluster| {
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
