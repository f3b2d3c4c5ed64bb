//! What `weir` can do, for its command line and for the tests of its promises.

pub mod demo;
pub mod local;
