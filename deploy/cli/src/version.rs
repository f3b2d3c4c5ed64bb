//! `weir version`: of this program, and of the mesh in the cluster.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde_json::json;

use crate::{
    api,
    install::{Format, existing},
    manifests::VERSION,
};

/// Flags of `weir version`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Do not ask the cluster.
    #[arg(long, visible_alias = "client-only")]
    client: bool,
    /// Print it for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

/// Shows versions. Says what to do where the mesh is of another version than this program.
///
/// # Errors
/// When the cluster does not answer.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout();
    if args.output.is_none() {
        writeln!(out, "weir {VERSION}")?;
    }
    let found = match args.client {
        true => Vec::new(),
        false => existing::find(&api::connect(cluster).await?).await?,
    };
    let Some(format) = args.output else {
        for mesh in &found {
            writeln!(out, "{mesh}")?;
            if mesh.version != VERSION {
                writeln!(
                    out,
                    "They differ; run `weir upgrade` to bring the mesh to {VERSION}."
                )?;
            }
        }
        if found.is_empty() && !args.client {
            writeln!(out, "no mesh in the cluster")?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let meshes: Vec<_> = found
        .iter()
        .map(|mesh| json!({ "name": mesh.mesh_name, "namespace": mesh.namespace, "version": mesh.version }))
        .collect();
    let versions = json!({ "client": VERSION, "meshes": meshes });
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&versions)?)?,
        Format::Yaml => writeln!(out, "{}", serde_saphyr::to_string(&versions)?.trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}
