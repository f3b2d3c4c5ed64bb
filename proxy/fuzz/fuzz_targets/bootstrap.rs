//! Any text as a bootstrap: an outcome, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_proxy::bootstrap::Bootstrap;

fuzz_target!(|text: &str| {
    let _ = Bootstrap::parse(text);
});
