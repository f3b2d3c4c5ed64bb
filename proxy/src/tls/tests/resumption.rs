//! Sessions are resumed where nothing has changed, and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering};

use rustls::{HandshakeKind, time_provider::TimeProvider};
use rustls_pki_types::UnixTime;

use super::*;

/// Hours after which the certificates of these tests are over, and tickets are not.
const LATER: u64 = 2;

/// A clock that can be set forward.
#[derive(Debug, Default)]
struct Clock(AtomicU64);

impl Clock {
    fn forward(&self, hours: u64) {
        self.0.store(hours * 3600, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = UnixTime::now().as_secs() + self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }
}

/// How the two sides' handshakes were done; they agree.
fn kind(outcome: Outcome) -> HandshakeKind {
    let server = outcome.server.unwrap().stream.get_ref().1.handshake_kind();
    let client = outcome.client.unwrap().stream.get_ref().1.handshake_kind();
    assert_eq!(server, client);
    server.unwrap()
}

async fn resumes(pair: &Pair) -> bool {
    kind(pair.handshake(Pin::Principal(SERVER)).await) == HandshakeKind::Resumed
}

#[tokio::test]
async fn a_session_is_resumed_with_all_that_was_agreed_on() {
    let pair = Pair::new();
    assert!(!resumes(&pair).await);
    for _ in 0..3 {
        let outcome = pair.handshake(Pin::Principal(SERVER)).await;
        let (accepted, originated) = (outcome.server.unwrap(), outcome.client.unwrap());
        assert_eq!(accepted.peer.unwrap().principal(), Some(CLIENT));
        assert_eq!(accepted.alpn.as_deref(), Some("osm"));
        assert_eq!(accepted.sni.as_deref(), Some("store.shop.svc.cluster.local"));
        let connection = originated.stream.get_ref().1;
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Resumed));
        let group = connection.negotiated_key_exchange_group();
        assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
    }
}

#[tokio::test]
async fn a_change_of_certificate_or_roots_on_either_side_ends_sessions() {
    let pair = Pair::new();
    let new = Ca::new();
    let roots = || State::Ready(bundle(&[&pair.ca, &new]));
    let changes: [&dyn Fn(); 4] = [
        &|| {
            pair.server_store
                .publish("workload-cert", State::Ready(pair.ca.leaf(SERVER)))
        },
        &|| {
            pair.client_store
                .publish("workload-cert", State::Ready(pair.ca.leaf(CLIENT)))
        },
        &|| pair.server_store.publish("trust-bundle", roots()),
        &|| pair.client_store.publish("trust-bundle", roots()),
    ];
    assert!(!resumes(&pair).await);
    for change in changes {
        assert!(resumes(&pair).await);
        change();
        assert!(!resumes(&pair).await);
    }
}

#[tokio::test]
async fn a_root_that_is_taken_away_ends_the_sessions_under_it() {
    for by_server in [true, false] {
        let pair = Pair::new();
        assert!(!resumes(&pair).await);
        assert!(resumes(&pair).await);
        let store = if by_server {
            &pair.server_store
        } else {
            &pair.client_store
        };
        store.publish("trust-bundle", State::Ready(bundle(&[&Ca::new()])));
        let refused = (Failure::UnknownCa, Failure::UnknownCa);
        assert_eq!(pair.fails(Pin::Principal(SERVER)).await, refused);
    }
}

#[tokio::test]
async fn a_client_whose_certificate_has_expired_does_not_resume() {
    let mut pair = Pair::new();
    let clock = Arc::new(Clock::default());
    pair.server = ServerSide::new(&server_tls(), &pair.server_store).at(clock.clone());
    assert!(!resumes(&pair).await);
    assert!(resumes(&pair).await);
    clock.forward(LATER);
    let outcome = pair.handshake(Pin::Principal(SERVER)).await;
    assert_eq!(outcome.server.err().unwrap().failure(), Failure::Expired);
    clock.forward(0);
    assert!(resumes(&pair).await);
}

#[tokio::test]
async fn a_server_whose_certificate_has_expired_is_not_resumed() {
    let mut pair = Pair::new();
    let clock = Arc::new(Clock::default());
    pair.client = ClientSide::new(&client_tls(), &pair.client_store).at(clock.clone());
    for _ in 0..3 {
        assert!(pair.handshake(Pin::Cluster).await.client.is_ok());
    }
    clock.forward(LATER);
    let outcome = pair.handshake(Pin::Cluster).await;
    assert_eq!(outcome.client.err(), Some(Failure::Expired));
    clock.forward(0);
    let outcome = pair.handshake(Pin::Cluster).await;
    assert_eq!(kind(outcome), HandshakeKind::Full, "the tickets were kept");
}

#[tokio::test]
async fn another_principal_does_not_share_sessions() {
    let pair = Pair::new();
    assert!(!resumes(&pair).await);
    let other = Pin::Principal("spiffe://cluster.local/ns/shop/sa/other");
    let refused = (Failure::WrongIdentity, Failure::WrongIdentity);
    assert_eq!(pair.fails(other).await, refused);
    assert_eq!(kind(pair.handshake(Pin::Cluster).await), HandshakeKind::Full);
    assert!(resumes(&pair).await);
}

#[tokio::test]
async fn a_session_is_resumed_where_its_names_are_expected_only() {
    let mut pair = Pair::new();
    assert!(!resumes(&pair).await);
    let mut tls = server_tls();
    tls.subject_alt_names = vec![StringMatcher::Exact(SERVER.into())];
    pair.server = ServerSide::new(&tls, &pair.server_store);
    let refused = (Failure::WrongIdentity, Failure::WrongIdentity);
    assert_eq!(pair.fails(Pin::Principal(SERVER)).await, refused);
}

#[tokio::test]
async fn tickets_are_for_the_endpoint_that_gave_them() {
    let pair = Pair::new();
    assert!(!resumes(&pair).await);
    for other in [None, Some(SocketAddr::from(([10, 0, 0, 2], 8080)))] {
        let (accepted, connected) = sockets().await;
        let pin = Pin::Principal(SERVER);
        let (server, client) = tokio::join!(
            pair.server.accept(accepted, LIMIT, None),
            pair.client.connect(connected, pin, &["osm"], other, LIMIT)
        );
        let connection = client.unwrap().stream;
        assert_eq!(connection.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert!(server.is_ok());
    }
    assert!(resumes(&pair).await);
}

#[tokio::test]
async fn sessions_are_not_resumed_where_tls_1_2_may_be_spoken() {
    let (mut server, mut client) = (server_tls(), client_tls());
    server.min_version = TlsVersion::V1_2;
    let lenient = Pair::with(server.clone(), client.clone());
    client.min_version = TlsVersion::V1_2;
    client.max_version = TlsVersion::V1_2;
    let old = Pair::with(server, client.clone());
    client.max_version = TlsVersion::V1_3;
    let either = Pair::with(server_tls(), client);
    for pair in [lenient, old, either] {
        assert!(!resumes(&pair).await);
        assert!(!resumes(&pair).await);
    }
}
