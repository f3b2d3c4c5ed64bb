//! What the caller gives a testbed: manifests, images, and the two things a cluster has and it has not —
//! a mutating webhook and a signer of ServiceAccount tokens.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::Sandbox;

/// What a mutating admission webhook would do to a pod before it is created.
pub type Mutate = Arc<dyn Fn(&Namespace, Pod) -> anyhow::Result<Pod> + Send + Sync>;

/// Signs the token of a projected `serviceAccountToken` volume.
pub type Mint = Arc<dyn Fn(&TokenRequest) -> anyhow::Result<String> + Send + Sync>;

/// A request for a ServiceAccount token, as the kubelet makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Namespace of the pod and its ServiceAccount.
    pub namespace: String,
    /// ServiceAccount the token speaks for.
    pub service_account: String,
    /// Pod the token is bound to.
    pub pod_name: String,
    /// That pod's UID.
    pub pod_uid: String,
    /// Intended audience; empty: the API server.
    pub audience: String,
    /// Lifetime.
    pub expiration: Duration,
}

/// An image: an executable of the host and its first arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The executable. It is shown to the container as `/<file name>`.
    pub executable: PathBuf,
    /// The image's entrypoint arguments, before the container's own `args`.
    pub args: Vec<String>,
}

impl Image {
    /// An image whose entrypoint is `executable` without arguments.
    pub fn new(executable: impl Into<PathBuf>) -> Self {
        Self {
            executable: executable.into(),
            args: Vec::new(),
        }
    }
}

/// How to start a [`crate::Testbed`].
#[derive(Clone)]
pub struct Options {
    /// Proof that the process is in the sandbox.
    pub sandbox: Sandbox,
    /// Directories of the user's manifests; only read. A later one's objects win over an earlier one's.
    pub manifests: Vec<PathBuf>,
    /// Directory for logs, volumes and observed objects (`cluster/`). Its content belongs to the testbed.
    pub run_dir: PathBuf,
    /// Images by name, with or without tag. An image that is not listed runs the container's `command`
    /// from the host's own programs.
    pub images: BTreeMap<String, Image>,
    /// Applied to each pod before it is created.
    pub mutate: Mutate,
    /// Signs ServiceAccount tokens.
    pub mint: Mint,
}

impl Options {
    /// Options with no images, no mutation and no tokens.
    pub fn new(sandbox: Sandbox, manifests: Vec<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            sandbox,
            manifests,
            run_dir: run_dir.into(),
            images: BTreeMap::new(),
            mutate: Arc::new(|_, pod| Ok(pod)),
            mint: Arc::new(|request| {
                anyhow::bail!(
                    "pod {} asks for a ServiceAccount token, but no signer was given",
                    request.pod_name
                )
            }),
        }
    }

    /// The image `name` stands for, looked up with its tag and then without.
    pub(crate) fn image(&self, name: &str) -> Option<&Image> {
        let untagged = name
            .rsplit_once(':')
            .filter(|(_, tag)| !tag.contains('/'))
            .map_or(name, |(name, _)| name);
        self.images.get(name).or_else(|| self.images.get(untagged))
    }
}
