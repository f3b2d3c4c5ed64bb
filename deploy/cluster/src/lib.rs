//! A real Kubernetes for tests, in namespaces of its own: an API server with etcd, or a whole node.
