//! The Weir control plane. This page is the map: the life of a change.
//!
//! An `endpoints` provider watches its source (an API server, or directories of manifests) and the objects are read and
//! checked by `spec` → the [`catalog`] joins them into one immutable snapshot, a pure function of the objects →
//! `xds` turns what has subscribers into resources and sends those whose version changed. Beside that path:
//! `certificates` signs the proxies' keys and owns the trust bundle, `injector` adds the sidecar to pods,
//! `validator` explains what is wrong with an object, `admin` shows health and metrics.

pub mod admin;
pub mod admission;
pub mod app;
pub mod catalog;
pub mod certificates;
pub mod config;
pub mod endpoints;
pub mod injector;
pub mod leader;
pub mod logging;
pub mod spec;
pub mod status;
pub mod table;
pub mod validator;
pub mod xds;
