//! Redirects a pod's TCP traffic through the Weir sidecar: settings → rules → one atomic apply per family → proof.
//!
//! - [`redirect`]: the settings, validated; [`ports`]: port lists.
//! - [`rules`]: the settings as an ordered list of rules per address family. Pure.
//! - [`backend`]: the one way or the other of putting them in force.
//! - [`iptables`]: applies the rules by one `iptables-restore` per family, nf_tables or legacy.
//! - [`nftables`]: applies them over netlink, with no program to run; also a small typed builder of nat tables for others.
//! - [`verify`]: reads the rules back and dials through them before the proxy starts.

pub mod backend;
pub mod iptables;
pub mod nftables;
pub mod ports;
pub mod redirect;
pub mod rules;
pub mod verify;
