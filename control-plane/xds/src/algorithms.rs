//! TLS algorithms that both sides of the contract know, by the names that Envoy gives them.

/// Cipher suites of TLS 1.2. Those of TLS 1.3 cannot be chosen, in Envoy neither.
pub const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Key exchanges.
pub const CURVES: [&str; 4] = ["X25519MLKEM768", "X25519", "P-256", "P-384"];
