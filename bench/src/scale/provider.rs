//! Where the controller finds the mesh: a directory of manifests, or a cluster's API server.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Serialize;

use super::{cluster::Cluster, files::Files, identities::Identities, layout::Layout};

/// Which one is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A directory of manifests.
    Files,
    /// A real API server, with etcd, on the core of the sidecars.
    Cluster,
}

/// The mesh's objects, where a controller finds them.
pub(super) enum Provider {
    Files { files: Files, state: PathBuf },
    Cluster(Box<Cluster>),
}

impl Provider {
    /// A place with a MeshConfig and nothing else.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) async fn start(kind: Kind, directory: &Path) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::Files => Self::Files {
                files: Files::new(directory.join("manifests"))?,
                state: directory.join("state"),
            },
            Kind::Cluster => Self::Cluster(Box::new(Cluster::start(directory).await?)),
        })
    }

    /// Which one it is.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Files { .. } => Kind::Files,
            Self::Cluster(_) => Kind::Cluster,
        }
    }

    /// What tells a controller of it.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Files { files, state } => [
                "--manifests".as_ref(),
                files.path(),
                "--state-dir".as_ref(),
                state,
            ]
            .map(|argument| argument.as_os_str().to_owned())
            .to_vec(),
            Self::Cluster(_) => Vec::new(),
        }
    }

    /// What tells it besides.
    pub(super) fn environment(&self) -> Vec<(&'static str, OsString)> {
        match self {
            Self::Files { .. } => Vec::new(),
            Self::Cluster(cluster) => vec![("KUBECONFIG", cluster.kubeconfig().into())],
        }
    }

    /// Adds a part of the mesh, and says which UIDs its pods have.
    ///
    /// # Errors
    /// When an object cannot be written.
    pub(super) async fn add(&self, layout: &Layout) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Files { files, .. } => {
                files.add(layout)?;
                Ok((0..layout.pods).map(|pod| layout.pod_uid(pod)).collect())
            }
            Self::Cluster(cluster) => cluster.add(layout).await,
        }
    }

    /// Makes the first endpoint of a service ready or not.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) async fn change(&self, layout: &Layout, service: usize, ready: bool) -> anyhow::Result<()> {
        match self {
            Self::Files { files, .. } => files.change(layout, service, ready),
            Self::Cluster(cluster) => cluster.change(layout, service, ready).await,
        }
    }

    /// Signs as the controller does, which serves by now.
    ///
    /// # Errors
    /// When its root cannot be had.
    pub(super) async fn identities(&self) -> anyhow::Result<Identities> {
        match self {
            Self::Files { state, .. } => Identities::in_directory(state),
            Self::Cluster(cluster) => {
                let (key, certificate) = cluster.root().await?;
                Identities::new(&key, &certificate)
            }
        }
    }
}
