//! `weir upgrade`: brings an installed mesh to the version of this program.

use std::process::ExitCode;

use anyhow::bail;

use crate::{
    api,
    install::{Pace, Settings, bring, existing},
};

/// Flags of `weir upgrade`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Forget the values of earlier installations and begin with the defaults.
    #[arg(long)]
    reset_values: bool,
    #[command(flatten)]
    pace: Pace,
}

/// Upgrades the mesh. Values given at its installation stay, and so does MeshConfig, but for what the flags say.
///
/// # Errors
/// When there is no mesh, the cluster refuses an object, or the mesh does not come up in time.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let layer = args.settings.layer()?;
    let client = api::connect(cluster).await?;
    let found = existing::find(&client).await?;
    if found.is_empty() {
        bail!("there is no mesh in the cluster; run `weir install`");
    }
    let request = bring::Request {
        namespace: &cluster.namespace,
        layer,
        keep_values: !args.reset_values,
        pace: &args.pace,
    };
    bring::bring(&client, &found, &request).await?;
    Ok(ExitCode::SUCCESS)
}
