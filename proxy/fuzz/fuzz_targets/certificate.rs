//! Any bytes as a peer's certificate: an identity with at most one SPIFFE ID or an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use weir_proxy::tls::PeerIdentity;

fuzz_target!(|der: &[u8]| {
    if let Ok(identity) = PeerIdentity::parse(&CertificateDer::from(der)) {
        assert!(identity.uris.len() <= 1);
        let _ = identity.label();
    }
});
