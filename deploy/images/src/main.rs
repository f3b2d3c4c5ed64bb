//! Builds the images of the mesh without a container engine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use weir_images::{
    compile::compile,
    mesh::{RECIPES, Recipe},
};

/// Container images of Weir, without a container engine.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds static programs and packs each into an archive that `ctr images import`, `docker load`, `podman load` and
    /// `kind load image-archive` read.
    Build {
        /// Where the archives go, one file an image.
        #[arg(long, value_name = "DIR", default_value = "target/images")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Build { out } = Args::parse().command;
    match build(&out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-images: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build(out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let programs = compile(&RECIPES.map(|recipe| recipe.name))?;
    for recipe in RECIPES {
        let program = programs.get(recipe.name).context("cargo left a program out")?;
        let archive = out.join(format!("{}.tar", recipe.name));
        recipe.pack(program)?.save(&archive)?;
        let size = fs::metadata(program)?.len();
        println!(
            "{}:{} {} {}",
            recipe.name,
            recipe.tag,
            mebibytes(size),
            archive.display()
        );
        check(&recipe, size)?;
    }
    Ok(())
}

fn check(recipe: &Recipe, size: u64) -> anyhow::Result<()> {
    if let Some(limit) = recipe.limit {
        ensure!(
            size <= limit * 1024 * 1024,
            "{} takes {}, more than the {limit} MiB it may",
            recipe.name,
            mebibytes(size)
        );
    }
    Ok(())
}

/// With one decimal.
fn mebibytes(size: u64) -> String {
    let tenths = (size * 10).div_ceil(1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
