//! The way to the cluster: which API server, as whom, and where the mesh lives in it.

mod apply;
mod explain;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

pub use apply::{FIELD_MANAGER, Outcome, api_of, apply, delete, describe, gone, look};
pub use explain::{explain, is_conflict, is_missing};

/// How long the API server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of every command that talks to a cluster.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The kubeconfig file [default: $KUBECONFIG, ~/.kube/config, or the pod's own account].
    #[arg(long, value_name = "FILE", global = true, help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME", global = true, help_heading = "Cluster")]
    pub context: Option<String>,
    /// The namespace of the control plane.
    // An id of its own: subcommands have a `namespace` that means something else.
    #[arg(
        id = "weir_namespace",
        long = "weir-namespace",
        value_name = "NAME",
        default_value = "weir-system",
        env = "WEIR_NAMESPACE",
        global = true,
        help_heading = "Cluster"
    )]
    pub namespace: String,
}

/// A client for the cluster that the flags name. Nothing is sent yet.
///
/// # Errors
/// When there is no usable kubeconfig.
pub async fn connect(options: &Options) -> anyhow::Result<Client> {
    let config = configuration(options).await?;
    Client::try_from(config)
        .context("cannot use the kubeconfig; look at its certificates and its server's address")
}

/// Where the API server is and who we are to it.
///
/// # Errors
/// When there is no usable kubeconfig.
pub async fn configuration(options: &Options) -> anyhow::Result<Config> {
    let choice = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = if let Some(file) = &options.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(file)
            .with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
        Config::from_custom_kubeconfig(kubeconfig, &choice)
            .await
            .with_context(|| format!("cannot use the kubeconfig {}", file.display()))?
    } else if options.context.is_some() {
        Config::from_kubeconfig(&choice)
            .await
            .context("cannot use the kubeconfig; say which with --kubeconfig or $KUBECONFIG")?
    } else {
        Config::infer()
            .await
            .context("no cluster to talk to; name a kubeconfig with --kubeconfig or $KUBECONFIG")?
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(config)
}
