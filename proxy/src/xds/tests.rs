//! The stream against a server on loopback.
