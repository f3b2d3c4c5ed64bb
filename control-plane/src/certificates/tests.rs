//! Roots, signatures and tokens.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    thread,
    time::{Duration, SystemTime},
};

use rcgen::{KeyPair, PublicKeyData as _};
use tokio_util::sync::CancellationToken;

use super::{
    BuiltIn, CertificateError, Identity, Issuer as _, Profile, Serving, SigningRequest, TokenError,
    TokenIdentity, TrustBundle, join_token,
};

fn holder() -> TokenIdentity {
    TokenIdentity {
        namespace: "shop".to_owned(),
        service_account: "books".to_owned(),
        pod: "books-0".to_owned(),
        pod_uid: "uid-1".to_owned(),
    }
}

fn claims() -> join_token::Claims {
    join_token::Claims::for_pod(&holder(), SystemTime::now(), Duration::from_secs(60))
}

fn request(validity: Duration) -> SigningRequest {
    SigningRequest {
        public_key: KeyPair::generate().unwrap().subject_public_key_info(),
        profile: Profile::Workload {
            identity: Identity {
                trust_domain: "cluster.local".to_owned(),
                namespace: "shop".to_owned(),
                service_account: "books".to_owned(),
            },
            pod_uid: "uid-1".to_owned(),
        },
        validity,
    }
}

#[test]
fn the_root_is_made_once_and_private() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let bundles: Vec<_> = thread::scope(|scope| {
        let open = || BuiltIn::open(&state).map(|issuer| issuer.trust().borrow().clone());
        let opened: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        opened
            .into_iter()
            .map(|thread| thread.join().unwrap().unwrap())
            .collect()
    });
    assert!(
        bundles.iter().all(|bundle| *bundle == bundles[0]),
        "all replicas agree on the root"
    );
    let mode = |name: &str| fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca.key"), mode("ca.crt")), (0o600, 0o600));
    let files = fs::read_dir(&state).unwrap().count();
    assert_eq!(files, 2, "no temporary file is left");
}

#[test]
fn a_lost_or_foreign_key_is_an_error_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    BuiltIn::open(directory.path()).unwrap();
    let key = directory.path().join("ca.key");
    fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(matches!(
        BuiltIn::open(directory.path()),
        Err(CertificateError::RootKey(_))
    ));
    fs::remove_file(&key).unwrap();
    assert!(matches!(
        BuiltIn::open(directory.path()),
        Err(CertificateError::KeyMissing { .. })
    ));
    assert!(!key.exists(), "no new key hides the loss");
}

#[tokio::test]
async fn validity_has_a_floor_and_starts_a_little_earlier() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = BuiltIn::open(directory.path()).unwrap();
    let chain = issuer.sign(request(Duration::ZERO)).await.unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain[0].as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    let lifetime = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(lifetime, 35);
    assert!(leaf.validity().is_valid());
}

#[tokio::test]
async fn no_account_gets_the_dns_name_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = BuiltIn::open(directory.path()).unwrap();
    let mut forged = request(Duration::from_secs(60));
    forged.profile = Profile::Workload {
        identity: Identity {
            trust_domain: "cluster.local".to_owned(),
            namespace: "svc".to_owned(),
            service_account: "weir-controller.weir-system".to_owned(),
        },
        pod_uid: "uid-1".to_owned(),
    };
    let chain = issuer.sign(forged).await.unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain[0].as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(
        matches!(
            &*names.value.general_names,
            [x509_parser::extensions::GeneralName::URI(_)]
        ),
        "{:?}",
        names.value.general_names
    );
}

#[tokio::test]
async fn two_roots_may_be_trusted_but_never_without_the_one_that_signs() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let issuer = BuiltIn::open(first.path()).unwrap();
    let other = BuiltIn::open(second.path()).unwrap();
    let pem = |issuer: &BuiltIn| issuer.trust().borrow().pem().to_owned();
    let only_other = TrustBundle::from_pem(&pem(&other)).unwrap();
    assert!(issuer.set_trust(only_other).is_err());
    let both = TrustBundle::from_pem(&(pem(&issuer) + &pem(&other))).unwrap();
    issuer.set_trust(both).unwrap();
    assert_eq!(issuer.trust().borrow().roots().len(), 2);
}

#[tokio::test]
async fn a_new_root_renews_the_serving_certificate() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let issuer = std::sync::Arc::new(BuiltIn::open(first.path()).unwrap());
    let other = BuiltIn::open(second.path()).unwrap();
    let serving = std::sync::Arc::new(Serving::new(issuer.clone(), "weir-system").await.unwrap());
    let before = serving.config();
    let stop = CancellationToken::new();
    let (fresh, stopped) = (serving.clone(), stop.clone());
    let task = tokio::spawn(async move { fresh.keep_fresh(stopped).await });
    let both = issuer.trust().borrow().pem().to_owned() + other.trust().borrow().pem();
    // The task may not have subscribed yet, and must not miss the change for that.
    issuer.set_trust(TrustBundle::from_pem(&both).unwrap()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while std::sync::Arc::ptr_eq(&before, &serving.config()) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("renewed in time");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn client_certificates_are_judged_at_every_handshake() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = std::sync::Arc::new(BuiltIn::open(directory.path()).unwrap());
    let config = Serving::new(issuer, "weir-system").await.unwrap().config();
    assert!(!config.session_storage.can_cache());
    assert_eq!(config.send_tls13_tickets, 0);
}

#[test]
fn a_token_says_whose_it_is() {
    let token = join_token::mint(&[7; 32], &claims()).unwrap();
    assert_eq!(join_token::verify(&[7; 32], &token), Ok(holder()));
}

#[test]
fn a_token_of_another_key_audience_time_or_subject_is_refused() {
    let verify = |claims: &join_token::Claims| {
        join_token::verify(&[7; 32], &join_token::mint(&[7; 32], claims).unwrap()).unwrap_err()
    };
    let foreign = join_token::mint(&[8; 32], &claims()).unwrap();
    assert!(matches!(
        join_token::verify(&[7; 32], &foreign),
        Err(TokenError::Bad(_))
    ));
    let mut changed = claims();
    changed.aud = vec!["vault".to_owned()];
    assert_eq!(verify(&changed), TokenError::WrongAudience);
    let mut changed = claims();
    changed.exp -= 61;
    assert_eq!(verify(&changed), TokenError::Expired);
    let mut changed = claims();
    changed.sub = "system:serviceaccount:shop:admin".to_owned();
    assert!(matches!(verify(&changed), TokenError::Bad(_)));
    let mut changed = claims();
    changed.iss = "https://elsewhere".to_owned();
    assert!(matches!(verify(&changed), TokenError::Bad(_)));
    let mut changed = claims();
    changed.kubernetes.pod.uid.clear();
    assert!(matches!(verify(&changed), TokenError::Bad(_)));
}

#[test]
fn an_unsigned_token_is_refused() {
    // {"alg":"none"} with the claims of a good token.
    let good = join_token::mint(&[7; 32], &claims()).unwrap();
    let payload = good.split('.').nth(1).unwrap();
    let unsigned = format!("eyJhbGciOiJub25lIn0.{payload}.");
    assert!(matches!(
        join_token::verify(&[7; 32], &unsigned),
        Err(TokenError::Bad(_))
    ));
}

#[test]
fn the_join_key_is_made_once_and_never_short() {
    let directory = tempfile::tempdir().unwrap();
    let key = join_token::load_or_create_key(directory.path()).unwrap();
    assert_eq!(join_token::load_or_create_key(directory.path()).unwrap(), key);
    assert_eq!(key.len(), 32);
    fs::write(directory.path().join("join.key"), "short").unwrap();
    assert!(join_token::load_or_create_key(directory.path()).is_err());
}
