//! Container images without a container engine: static binaries in a docker-archive that any runtime imports.
