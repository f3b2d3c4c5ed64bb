//! TLS on both sides of the proxy: everything that knows rustls.
//!
//! [`ServerSide`] terminates TLS for a filter chain and [`ClientSide`] begins it towards a cluster. Each is made
//! from its configuration and watches the secrets that it names: a handshake uses the newest certificate and
//! roots, and open connections keep what they were made with. TLS 1.3 unless the configuration allows 1.2;
//! X25519MLKEM768 is preferred, so recorded traffic stays secret from a later quantum computer.
//!
//! A peer is known by its X.509-SVID ([`PeerIdentity`]): the chain must lead to the trust bundle, and then the
//! names count, never the host name. A chain that was found good is known again, byte for byte, while it is valid
//! and the roots and expected names are the same.
//!
//! Sidecars resume sessions in TLS 1.3, with fresh key exchange, so that a new connection costs neither signatures nor
//! verifications. A session ends with what it began under: both sides drop what they keep when their certificate,
//! their roots or the expected names change, and the peer's certificate is looked at for each connection, so that an
//! expired one is refused. There is no early data.

mod client;
mod error;
mod material;
mod names;
mod peer;
mod server;
mod sides;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tickets;
mod verified;
mod verify;

use std::sync::{Arc, LazyLock};

use rustls::{
    RootCertStore, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    version::{TLS12, TLS13},
};

use rustls_pki_types::UnixTime;

pub use client::{ClientSide, Originated, Pin};
pub use error::{Failure, HandshakeError};
pub use peer::{PeerIdentity, PeerIdentityError};
pub use server::{Accepted, ServerSide};
pub use sides::Tls;

use weir_xds::algorithms::{CIPHER_SUITES, CURVES};

use crate::model::{Algorithms, Certificate, TlsVersion, TrustBundle};

/// What HTTP/2 may carry on a connection between two sidecars, beside what it carries for anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// HTTP/1 requests ([`crate::http`]).
    Requests,
    /// Opaque connections, each by a CONNECT ([`crate::tunnels`]).
    Connections,
}

/// What an application protocol's name ends with on a connection for bytes of any kind, where the name alone may also
/// mean HTTP.
pub const BYTES: &str = "-tcp";

impl Carried {
    /// What the application protocol's name ends with on such a connection.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Requests => "-h1h2",
            Self::Connections => "-connect",
        }
    }
}

/// The cryptography in use: aws-lc-rs with AES-128-GCM first, which is the fastest of the suites and as strong
/// as the rest of the handshake.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    PROVIDER.clone()
}

/// The same with the chosen algorithms only. TLS 1.3 keeps its suites, which are all strong.
fn provider_with(chosen: &Algorithms) -> Arc<CryptoProvider> {
    let all = provider();
    if *chosen == Algorithms::default() {
        return all;
    }
    let mut provider = CryptoProvider::clone(&all);
    if !chosen.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        let suites = chosen.cipher_suites.iter().filter_map(|name| suite(name));
        provider.cipher_suites.extend(suites);
    }
    if !chosen.curves.is_empty() {
        provider.kx_groups = chosen.curves.iter().filter_map(|name| group(name)).collect();
    }
    Arc::new(provider)
}

fn suite(name: &str) -> Option<SupportedCipherSuite> {
    let suites = [
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let at = CIPHER_SUITES.iter().position(|known| *known == name)?;
    suites.get(at).copied()
}

fn group(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    let groups = [
        kx_group::X25519MLKEM768,
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::SECP384R1,
    ];
    let at = CURVES.iter().position(|known| *known == name)?;
    groups.get(at).copied()
}

/// Whether peers that trust this bundle take this certificate now.
pub fn trusted(certificate: &Certificate, bundle: &TrustBundle) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle.roots.iter().cloned());
    verify::leads_to(&certificate.chain, &roots, UnixTime::now())
}

/// Whether no older version than TLS 1.3 is allowed.
fn only_tls13(min: TlsVersion, max: TlsVersion) -> bool {
    !versions(min, max).contains(&&TLS12)
}

/// The versions between two bounds; 1.3 alone when the bounds cross.
fn versions(min: TlsVersion, max: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match (min, max) {
        (TlsVersion::V1_2, TlsVersion::V1_3) => &BOTH,
        (TlsVersion::V1_2, TlsVersion::V1_2) => &BOTH[1..],
        (TlsVersion::V1_3, _) => &BOTH[..1],
    }
}
