//! Any bytes as what another sidecar sends over HTTP/2, at either end: an outcome, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_proxy::{detect::PREFACE, http2};

fuzz_target!(|bytes: &[u8]| {
    let _ = http2::decode(bytes, false);
    let _ = http2::decode(&[PREFACE, bytes].concat(), true);
});
