//! Any bytes as an HTTP/1 request: an outcome, never a panic, and never more body than there were bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_proxy::http1;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(taken) = http1::decode_request(bytes) {
        assert!(taken <= bytes.len());
    }
});
