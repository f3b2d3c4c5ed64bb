//! `weir install`: makes the mesh's objects in a cluster and waits until they work.

pub(crate) mod bring;
mod crds;
pub(crate) mod diagnose;
pub(crate) mod existing;
mod rollout;
mod settings;
mod webhooks;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::{api, manifests};
use anyhow::{Context, bail};
pub use settings::{Format, Pace};
pub(crate) use settings::{Settings, parse_duration};

/// Flags of `weir install`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    pace: Pace,
    /// Print the objects instead of making them; needs no cluster.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

/// Installs the mesh. Where it is there already, brings it to what the flags say.
///
/// # Errors
/// When the cluster refuses an object, holds another mesh, or the mesh does not come up in time.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let layer = args.settings.layer()?;
    if let Some(format) = args.output {
        let values = manifests::Values::new(&[layer])?;
        print(format, &cluster.namespace, &values)?;
        return Ok(ExitCode::SUCCESS);
    }
    let client = api::connect(cluster).await?;
    let found = existing::find(&client).await?;
    if let Some(mesh) = found.iter().find(|mesh| mesh.namespace == cluster.namespace)
        && mesh.version != manifests::VERSION
    {
        bail!(
            "{mesh} is installed; run `weir upgrade` to bring it to {}",
            manifests::VERSION
        );
    }
    let request = bring::Request {
        namespace: &cluster.namespace,
        layer,
        keep_values: true,
        pace: &args.pace,
    };
    bring::bring(&client, &found, &request).await?;
    Ok(ExitCode::SUCCESS)
}

fn print(format: Format, namespace: &str, values: &manifests::Values) -> anyhow::Result<()> {
    let mut objects = Vec::new();
    for crd in manifests::crds()? {
        let mut value = serde_json::to_value(crd)?;
        if let Some(crd) = value.as_object_mut() {
            crd.remove("status");
        }
        objects.push(value);
    }
    for object in manifests::objects(namespace, values)? {
        objects.push(serde_json::to_value(object)?);
    }
    let mut out = io::stdout().lock();
    match format {
        Format::Json => {
            let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
            writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        }
        Format::Yaml => {
            for object in objects {
                let text = serde_saphyr::to_string(&object).context("cannot write an object as YAML")?;
                writeln!(out, "---\n{}", text.trim_end())?;
            }
        }
    }
    Ok(())
}
