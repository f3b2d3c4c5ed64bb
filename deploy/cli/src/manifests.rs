//! The mesh's own manifests, as `deploy/chart` holds them.
