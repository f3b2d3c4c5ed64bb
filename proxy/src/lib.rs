//! The Weir sidecar proxy. This page is the map: the life of a connection.
//!
//! **Inbound** (`inbound`): [`accept`] → original destination → filter chain for that port (a snapshot of the
//! pod's `inbound` listener) → peek once for TLS (`detect`) → TLS accept yields the peer's identity (`tls`)
//! → TCP authorization (`policy`) → opaque: connect to the application and copy (`net`); HTTP: serve,
//! match a route, authorize each request, forward to the application (`http`).
//!
//! **Outbound** (`outbound`): [`accept`] → original destination → the listener of that address, fetched on
//! demand ([`xds`]); unknown: pass through or refuse, as the `outbound` listener says → peek once, skipped
//! when the protocol is declared → route match and weighted split (`route`) → balance (`balance`) →
//! mTLS pinned to the endpoint's identity → pool or copy (`upstream`). What met no application, since the pod is
//! about to end, is sent to another pod (`http::again`).
//!
//! HTTP/1 is spoken by [`http1`], with clients and endpoints. Under load it rides on HTTP/2 to other sidecars
//! (`http::carried`), which [`http2`] speaks with them for gRPC too, and so do opaque connections ([`tunnels`]).
//!
//! State reaches connections as immutable snapshots of [`model`]; decisions are pure functions; `http::rescue`
//! is the only writer of responses that the proxy makes itself, and each carries a reason that is also the
//! metric label (`telemetry`). Where a control plane is asked for everything, and not on demand, [`whole`] binds
//! all its listeners. Probes, Prometheus and people are answered by [`admin`], which sees the rest through
//! [`introspect`].

pub mod accept;
pub mod admin;
pub mod admit;
pub mod app;
pub mod assemble;
pub mod balance;
pub mod bootstrap;
pub mod bucket;
pub mod chain;
pub mod config;
pub mod context;
pub mod control;
pub mod detect;
pub mod drain;
pub mod http;
pub mod http1;
pub mod http2;
pub mod identity;
pub mod inbound;
pub mod introspect;
pub mod model;
pub mod net;
pub mod outbound;
pub mod peek;
pub mod policy;
pub mod reason;
pub mod retry;
pub mod route;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod tunnels;
pub mod upstream;
pub mod whole;
pub mod xds;
