//! HTTP/1.1 requests and opaque connections ride on HTTP/2 between two sidecars under load, and neither end can tell.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail"
)]

mod app;
mod burst;
mod connections;
#[path = "../pair/mod.rs"]
mod pair;
mod same;
mod trouble;
