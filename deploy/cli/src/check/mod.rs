//! `weir check`.

use std::process::ExitCode;

use crate::api;

/// Flags of `weir check`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// When the cluster does not answer.
pub async fn run(cluster: &api::Options, _args: &Args) -> anyhow::Result<ExitCode> {
    let _client = api::connect(cluster).await?;
    anyhow::bail!("`weir check` is not there yet")
}
