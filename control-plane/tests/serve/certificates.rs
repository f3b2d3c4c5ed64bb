//! Signing: a good token gets its own identity, everything else is refused and counted.

use std::time::Duration;

use rcgen::SanType;
use tonic::Code;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::mesh::{BUYER, Controller, STORE};

fn uri(text: &str) -> Vec<SanType> {
    vec![SanType::URI(text.try_into().unwrap())]
}

#[tokio::test]
async fn a_good_token_gets_exactly_its_identity() {
    let controller = Controller::start().await;
    let certificate = controller.certificate("bookbuyer").await;
    assert_eq!(certificate.chain.len(), 2, "leaf and root");
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.chain[0].as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&pem.contents).unwrap();
    let common_name = leaf
        .subject()
        .iter_common_name()
        .next()
        .unwrap()
        .as_str()
        .unwrap();
    assert_eq!(common_name, BUYER);
    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(
        *names,
        [
            GeneralName::URI("spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer"),
            GeneralName::DNSName("bookbuyer.bookbuyer.cluster.local"),
        ]
    );
    assert!(!leaf.is_ca());
    let lifetime = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(lifetime, 24 * 60 * 60 + 30);
}

#[tokio::test]
async fn a_request_may_name_its_own_identity_and_no_other() {
    let controller = Controller::start().await;
    let token = controller.token("bookbuyer", BUYER, Duration::ZERO);
    let own = uri("spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer");
    assert!(controller.sign(&token, own).await.is_ok());
    let other = uri("spiffe://cluster.local/ns/bookstore/sa/bookstore");
    let refused = controller.sign(&token, other).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        controller
            .metrics()
            .await
            .contains("weir_csr_refused_total{reason=\"csr_identity\"} 1")
    );
}

#[tokio::test]
async fn bad_tokens_are_refused_by_reason() {
    let controller = Controller::start().await;
    let expired = controller.token("bookbuyer", BUYER, Duration::from_secs(7200));
    let other_account = controller.token("bookbuyer", STORE, Duration::ZERO);
    let unknown_pod = controller.token("bookbuyer", "uid-nobody", Duration::ZERO);
    let mut forged = controller.token("bookbuyer", BUYER, Duration::ZERO);
    forged.truncate(forged.len() - 4);
    for (token, code, reason) in [
        (expired, Code::Unauthenticated, "expired"),
        (other_account, Code::PermissionDenied, "service_account_mismatch"),
        (unknown_pod, Code::Unavailable, "unknown_pod"),
        (forged, Code::Unauthenticated, "bad_token"),
    ] {
        let refused = controller.sign(&token, vec![]).await.err().unwrap();
        assert_eq!(refused.code(), code, "{reason}");
        let line = format!("weir_csr_refused_total{{reason=\"{reason}\"}} 1");
        assert!(controller.metrics().await.contains(&line), "{reason}");
    }
}
