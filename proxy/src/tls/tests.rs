mod resumption;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{CipherSuite, NamedGroup};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    Accepted, CIPHER_SUITES, CURVES, Carried, ClientSide, Failure, HandshakeError, Originated, Pin,
    ServerSide, group, suite,
    testing::{Ca, Leaf, bundle},
};
use crate::{
    model::{Algorithms, Secret, ServerTls, StringMatcher, TlsVersion, UpstreamTls},
    xds::{State, Store},
};

mod carrying;

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/buyer";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/store";
const LIMIT: Duration = Duration::from_secs(20);

fn server_tls() -> ServerTls {
    ServerTls {
        certificate: "workload-cert".into(),
        trust_bundle: Some("trust-bundle".into()),
        inline_trust: None,
        subject_alt_names: Vec::new(),
        require_client_certificate: true,
        alpn: vec!["osm".into()],
        min_version: TlsVersion::V1_3,
        max_version: TlsVersion::V1_3,
        algorithms: Default::default(),
    }
}

fn client_tls() -> UpstreamTls {
    UpstreamTls {
        sni: "store.shop.svc.cluster.local".into(),
        alpn: vec!["osm".into()],
        certificate: Some("workload-cert".into()),
        trust_bundle: Some("trust-bundle".into()),
        inline_trust: None,
        subject_alt_names: vec![StringMatcher::Exact(SERVER.into())],
        min_version: TlsVersion::V1_3,
        max_version: TlsVersion::V1_3,
        algorithms: Default::default(),
    }
}

fn store(certificate: Arc<Secret>, bundle: Arc<Secret>) -> Store {
    let (store, _) = Store::new();
    store.publish("workload-cert", State::Ready(certificate));
    store.publish("trust-bundle", State::Ready(bundle));
    store
}

/// A server and a client under one root.
struct Pair {
    ca: Ca,
    server_store: Store,
    client_store: Store,
    server: ServerSide,
    client: ClientSide,
}

impl Pair {
    fn new() -> Self {
        Self::with(server_tls(), client_tls())
    }

    fn with(server: ServerTls, client: UpstreamTls) -> Self {
        let ca = Ca::new();
        let server_store = store(ca.leaf(SERVER), bundle(&[&ca]));
        let client_store = store(ca.leaf(CLIENT), bundle(&[&ca]));
        Self {
            server: ServerSide::new(&server, &server_store),
            client: ClientSide::new(&client, &client_store),
            ca,
            server_store,
            client_store,
        }
    }

    async fn handshake(&self, pin: Pin<'_>) -> Outcome {
        handshake(&self.server, &self.client, pin, &["osm"]).await
    }

    async fn fails(&self, pin: Pin<'_>) -> (Failure, Failure) {
        let outcome = self.handshake(pin).await;
        (
            outcome.server.err().unwrap().failure(),
            outcome.client.err().unwrap(),
        )
    }
}

struct Outcome {
    server: Result<Accepted<TcpStream>, HandshakeError>,
    /// The handshake, or the first read after it, failed.
    client: Result<Originated<TcpStream>, Failure>,
}

/// Where the client takes the server to be.
fn endpoint() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 8080))
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(address));
    (accepted.unwrap().0, connected.unwrap())
}

async fn handshake(server: &ServerSide, client: &ClientSide, pin: Pin<'_>, alpn: &[&str]) -> Outcome {
    handshake_with(server, client, pin, alpn, None).await
}

async fn handshake_with(
    server: &ServerSide,
    client: &ClientSide,
    pin: Pin<'_>,
    alpn: &[&str],
    carried: Option<Carried>,
) -> Outcome {
    let (accepted, connected) = sockets().await;
    let serve = async {
        let mut accepted = server.accept(accepted, LIMIT, carried).await?;
        let written = accepted.stream.write_all(b"!").await;
        written.map_err(HandshakeError::from)?;
        accepted.stream.flush().await.map_err(HandshakeError::from)?;
        Ok(accepted)
    };
    let call = async {
        let originated = client
            .connect(connected, pin, alpn, Some(endpoint()), LIMIT)
            .await;
        let mut originated = originated.map_err(|error| error.failure())?;
        let read = originated.stream.read_u8().await;
        read.map_err(|error| Failure::of(&error).unwrap_or(Failure::Io))?;
        Ok(originated)
    };
    let (server, client) = tokio::join!(serve, call);
    Outcome { server, client }
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let outcome = Pair::new().handshake(Pin::Principal(SERVER)).await;
    let accepted = outcome.server.unwrap();
    let peer = accepted.peer.unwrap();
    assert_eq!(peer.principal(), Some(CLIENT));
    assert_eq!(peer.subject, "CN=uid");
    assert_eq!(accepted.alpn.as_deref(), Some("osm"));
    assert_eq!(accepted.sni.as_deref(), Some("store.shop.svc.cluster.local"));
    let originated = outcome.client.unwrap();
    assert_eq!(originated.alpn.as_deref(), Some("osm"));
    let group = originated.stream.get_ref().1.negotiated_key_exchange_group();
    assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn a_server_of_another_name_is_refused() {
    let pair = Pair::new();
    let other = "spiffe://cluster.local/ns/shop/sa/store2";
    let refused = (Failure::WrongIdentity, Failure::WrongIdentity);
    assert_eq!(pair.fails(Pin::Principal(other)).await, refused);
    assert!(pair.handshake(Pin::Cluster).await.client.is_ok());
    let stranger = pair.ca.leaf(other);
    pair.server_store.publish("workload-cert", State::Ready(stranger));
    assert_eq!(pair.fails(Pin::Cluster).await, refused);
}

#[tokio::test]
async fn a_dns_name_does_not_stand_for_a_principal() {
    let pair = Pair::new();
    let posing = pair.ca.issue(&Leaf {
        uris: &[],
        dns: &["store.shop.cluster.local"],
        valid: (-60, 60),
    });
    pair.server_store.publish("workload-cert", State::Ready(posing));
    let pin = Pin::Principal("store.shop.cluster.local");
    assert_eq!(pair.fails(pin).await.1, Failure::WrongIdentity);
}

#[tokio::test]
async fn a_server_can_be_known_by_its_dns_name() {
    let mut tls = client_tls();
    tls.subject_alt_names = vec![StringMatcher::Exact("weir-controller.weir-system.svc".into())];
    let pair = Pair::with(server_tls(), tls);
    let controller = pair.ca.issue(&Leaf {
        uris: &[],
        dns: &["localhost", "Weir-Controller.weir-system.svc"],
        valid: (-60, 60),
    });
    pair.server_store
        .publish("workload-cert", State::Ready(controller));
    assert!(pair.handshake(Pin::Cluster).await.client.is_ok());
}

#[tokio::test]
async fn a_client_of_another_name_is_refused_where_names_are_listed() {
    let mut tls = server_tls();
    tls.subject_alt_names = vec![StringMatcher::Exact(SERVER.into())];
    let pair = Pair::with(tls, client_tls());
    let refused = (Failure::WrongIdentity, Failure::WrongIdentity);
    assert_eq!(pair.fails(Pin::Cluster).await, refused);
}

#[tokio::test]
async fn expired_certificates_are_refused() {
    let pair = Pair::new();
    let expired = |uri| {
        State::Ready(pair.ca.issue(&Leaf {
            uris: &[uri],
            dns: &[],
            valid: (-120, -60),
        }))
    };
    let refused = (Failure::Expired, Failure::Expired);
    pair.client_store.publish("workload-cert", expired(CLIENT));
    assert_eq!(pair.fails(Pin::Cluster).await, refused);
    let good = State::Ready(pair.ca.leaf(CLIENT));
    pair.client_store.publish("workload-cert", good);
    pair.server_store.publish("workload-cert", expired(SERVER));
    assert_eq!(pair.fails(Pin::Cluster).await, refused);
}

#[tokio::test]
async fn an_unknown_root_is_refused() {
    let pair = Pair::new();
    let foreign = Ca::new();
    let refused = (Failure::UnknownCa, Failure::UnknownCa);
    let certificate = State::Ready(foreign.leaf(CLIENT));
    pair.client_store.publish("workload-cert", certificate);
    assert_eq!(pair.fails(Pin::Cluster).await, refused);
    let certificate = State::Ready(foreign.leaf(SERVER));
    pair.server_store.publish("workload-cert", certificate);
    assert_eq!(pair.fails(Pin::Cluster).await, refused);
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_unless_it_may() {
    let mut tls = client_tls();
    tls.certificate = None;
    let refused = (Failure::NoCertificate, Failure::NoCertificate);
    let pair = Pair::with(server_tls(), tls.clone());
    assert_eq!(pair.fails(Pin::Cluster).await, refused);
    let mut lenient = server_tls();
    lenient.require_client_certificate = false;
    let outcome = Pair::with(lenient, tls).handshake(Pin::Cluster).await;
    assert!(outcome.server.unwrap().peer.is_none());
}

#[tokio::test]
async fn two_uri_names_are_refused_even_if_one_fits() {
    let pair = Pair::new();
    let double = |uris| {
        State::Ready(pair.ca.issue(&Leaf {
            uris,
            dns: &[],
            valid: (-60, 60),
        }))
    };
    let refused = (Failure::WrongIdentity, Failure::WrongIdentity);
    pair.client_store
        .publish("workload-cert", double(&[CLIENT, SERVER]));
    assert_eq!(pair.fails(Pin::Cluster).await, refused);
    pair.client_store
        .publish("workload-cert", State::Ready(pair.ca.leaf(CLIENT)));
    pair.server_store
        .publish("workload-cert", double(&[SERVER, CLIENT]));
    assert_eq!(pair.fails(Pin::Principal(SERVER)).await, refused);
}

#[tokio::test]
async fn tls_1_2_only_where_the_configuration_says_so() {
    let mut old = client_tls();
    old.min_version = TlsVersion::V1_2;
    old.max_version = TlsVersion::V1_2;
    let refused = (Failure::Protocol, Failure::Protocol);
    let pair = Pair::with(server_tls(), old.clone());
    assert_eq!(pair.fails(Pin::Cluster).await, refused);
    let mut lenient = server_tls();
    lenient.min_version = TlsVersion::V1_2;
    let outcome = Pair::with(lenient, old).handshake(Pin::Cluster).await;
    assert!(outcome.client.is_ok());
}

#[tokio::test]
async fn the_chosen_algorithms_are_used() {
    let mut server = server_tls();
    server.min_version = TlsVersion::V1_2;
    server.algorithms = Algorithms {
        cipher_suites: vec!["ECDHE-ECDSA-CHACHA20-POLY1305".into()],
        curves: vec!["P-384".into()],
    };
    let mut old = client_tls();
    old.min_version = TlsVersion::V1_2;
    old.max_version = TlsVersion::V1_2;
    let outcome = Pair::with(server.clone(), old.clone())
        .handshake(Pin::Cluster)
        .await;
    let stream = outcome.client.unwrap().stream;
    let connection = stream.get_ref().1;
    let suite = connection.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
    let exchange = connection.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(exchange, NamedGroup::secp384r1);

    old.algorithms.curves = vec!["X25519".into()];
    let pair = Pair::with(server, old);
    assert_eq!(pair.fails(Pin::Cluster).await.0, Failure::Protocol);
}

#[test]
fn every_algorithm_of_the_contract_is_known() {
    assert!(CIPHER_SUITES.iter().all(|name| suite(name).is_some()));
    assert!(CURVES.iter().all(|name| group(name).is_some()));
}

#[tokio::test]
async fn another_application_protocol_is_refused() {
    let pair = Pair::new();
    let outcome = handshake(&pair.server, &pair.client, Pin::Cluster, &["osm-tcp"]).await;
    assert_eq!(outcome.server.err().unwrap().failure(), Failure::Alpn);
    assert_eq!(outcome.client.err(), Some(Failure::Alpn));
}

#[tokio::test]
async fn rotation_is_for_new_connections_and_leaves_open_ones() {
    let pair = Pair::new();
    let outcome = pair.handshake(Pin::Cluster).await;
    let (mut accepted, mut originated) = (outcome.server.unwrap(), outcome.client.unwrap());
    let first = leaf_of(&originated);

    let rotated = State::Ready(pair.ca.leaf(SERVER));
    pair.server_store.publish("workload-cert", rotated);
    let later = pair.handshake(Pin::Cluster).await.client.unwrap();
    assert_ne!(leaf_of(&later), first);

    let written = originated.stream.write_all(b"still here").await;
    assert!(written.is_ok());
    let mut seen = [0; 10];
    accepted.stream.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"still here");
}

fn leaf_of(originated: &Originated<TcpStream>) -> Vec<u8> {
    originated.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn roots_are_rotated_with_an_overlap() {
    let pair = Pair::new();
    let new = Ca::new();
    let publish = |name: &str, secret: &Arc<Secret>| {
        pair.server_store.publish(name, State::Ready(secret.clone()));
        pair.client_store.publish(name, State::Ready(secret.clone()));
    };
    publish("trust-bundle", &bundle(&[&pair.ca, &new]));
    assert!(pair.handshake(Pin::Cluster).await.client.is_ok());
    pair.server_store
        .publish("workload-cert", State::Ready(new.leaf(SERVER)));
    assert!(pair.handshake(Pin::Cluster).await.client.is_ok());
    pair.client_store
        .publish("workload-cert", State::Ready(new.leaf(CLIENT)));
    publish("trust-bundle", &bundle(&[&new]));
    assert!(pair.handshake(Pin::Cluster).await.client.is_ok());
    pair.client_store
        .publish("workload-cert", State::Ready(pair.ca.leaf(CLIENT)));
    assert_eq!(pair.fails(Pin::Cluster).await.0, Failure::UnknownCa);
}

#[tokio::test]
async fn useless_new_secrets_leave_the_last_good_ones() {
    let pair = Pair::new();
    assert!(pair.handshake(Pin::Cluster).await.client.is_ok());
    let empty = State::Ready(bundle(&[]));
    pair.server_store.publish("trust-bundle", empty.clone());
    pair.client_store.publish("trust-bundle", empty);
    assert!(pair.handshake(Pin::Cluster).await.client.is_ok());
}

#[tokio::test]
async fn a_missing_secret_is_waited_for_and_then_named() {
    let (store, _interest) = Store::new();
    let side = ServerSide::new(&server_tls(), &store);
    let (io, _peer) = tokio::io::duplex(64);
    let error = side
        .accept(io, Duration::from_millis(20), None)
        .await
        .err()
        .unwrap();
    assert_eq!(error.failure(), Failure::NoCertificate);
    store.publish::<Secret>("workload-cert", State::Absent);
    let (io, _peer) = tokio::io::duplex(64);
    let error = side.accept(io, LIMIT, None).await.err().unwrap();
    assert!(error.to_string().contains("workload-cert"), "{error}");
}

#[tokio::test]
async fn a_silent_client_is_given_up() {
    let pair = Pair::new();
    let (io, _peer) = tokio::io::duplex(64);
    let error = pair
        .server
        .accept(io, Duration::from_millis(20), None)
        .await
        .err()
        .unwrap();
    assert_eq!(error.failure(), Failure::Timeout);
}

#[tokio::test]
async fn bytes_that_are_not_tls_are_refused() {
    let pair = Pair::new();
    let (accepted, mut connected) = sockets().await;
    connected.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = pair.server.accept(accepted, LIMIT, None).await.err().unwrap();
    assert_eq!(error.failure(), Failure::Protocol);
    assert!(Failure::of(&io::Error::other("no")).is_none());
}
