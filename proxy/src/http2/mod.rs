//! HTTP/2 (RFC 9113) between two sidecars.

#[cfg_attr(
    not(test),
    expect(
        dead_code,
        unused_imports,
        reason = "the connection that uses it is not there yet"
    )
)]
mod hpack;
