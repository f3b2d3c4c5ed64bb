//! Container images without a container engine: programs packed into a docker-archive, which `ctr images import`,
//! `docker load`, `podman load` and `kind load image-archive` all read.
//!
//! An [`Image`] is one layer. Users get static programs alone in it; tests get the programs that cargo has built
//! anyway, with the libraries they need ([`linked`]).

pub mod archive;
pub mod compile;
pub mod linked;
pub mod mesh;

pub use archive::Image;
