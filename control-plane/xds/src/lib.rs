//! The contract between `weir-controller` and `weir-proxy`: a trimmed Envoy xDS v3.
//!
//! The `.proto` files keep Envoy's package names, message names and field numbers and leave out
//! what the mesh does not use, so a stock Envoy understands this controller and this proxy
//! understands another xDS server. A field that a proxy must not ignore but that Weir does not
//! implement is declared as `bytes` at its real number ("refused when set"): a decoder that finds
//! it set answers with a NACK.
//!
//! [`fields`] says field by field what the proxy keeps, ignores and refuses, and [`servers`] what another control
//! plane must send to it.
//!
//! Certificates are signed through Istio's CSR service, [`istio::v1::auth`].

pub mod algorithms;
mod resource;

#[doc = include_str!("../FIELDS.md")]
pub mod fields {}

#[doc = include_str!("../SERVERS.md")]
pub mod servers {}

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, rustdoc::all)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use packages::{envoy, google, istio};
pub use resource::{Resource, ResourceType, TypeUrl, UnpackError, pack, unpack};

/// The encoded `FileDescriptorSet` of every message here and all it imports, without comments, for tools that read
/// protobuf JSON (the proxy's bootstrap) or print it (config dumps).
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
