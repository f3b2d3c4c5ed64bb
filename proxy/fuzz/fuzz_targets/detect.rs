//! No first bytes of a connection make detection panic, and more bytes never change a verdict.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_proxy::detect::{Detected, detect};

fuzz_target!(|bytes: &[u8]| {
    let whole = detect(bytes);
    for end in 0..bytes.len().min(64) {
        let part = detect(&bytes[..end]);
        assert!(
            part == Detected::NeedMore || part == whole,
            "{part:?} became {whole:?}"
        );
    }
});
