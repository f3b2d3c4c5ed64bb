//! The controller over real TLS on loopback: who is served, and what.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod certificates;
mod discovery;
mod envoy;
mod golden;
mod mesh;
mod misuse;
