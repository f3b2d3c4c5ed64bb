//! What `weir` can do, for its command line and for the tests of its promises.

pub mod api;
pub mod check;
pub mod columns;
pub mod completion;
pub mod demo;
pub mod inject;
pub mod install;
pub mod local;
pub mod manifests;
pub mod metrics;
pub mod namespace;
pub mod policy;
pub mod proxy;
pub mod uninstall;
pub mod upgrade;
pub mod version;
