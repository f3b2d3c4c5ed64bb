//! Why a bootstrap is not usable.

use std::path::PathBuf;

use crate::xds::decode::DecodeError;

/// Why a bootstrap is not usable.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A file cannot be read.
    #[error("cannot read {path:?}: {source}; check the path and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Neither YAML nor JSON.
    #[error("{origin}: neither YAML nor JSON: {reason}")]
    Syntax {
        /// The file or flag.
        origin: String,
        /// Where and why.
        reason: String,
    },
    /// A field outside the subset, or a value of the wrong kind.
    #[error("{origin}: {path}: {reason}")]
    Field {
        /// What is read: the bootstrap, or a file of secrets.
        origin: String,
        /// The field, `static_resources.listeners[0].name`.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A static resource is not usable.
    #[error("bootstrap: {0}")]
    Resource(#[from] DecodeError),
    /// The parts do not fit each other.
    #[error("bootstrap: {0}")]
    Invalid(String),
}
