//! The programs that the mesh runs: built first when cargo started this one, else found beside it.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// Packages, each with a program of the same name.
const PROGRAMS: [&str; 4] = ["weir-proxy", "weir-controller", "weir-init", "weir-bookstore"];

/// The programs, by name.
pub type Programs = BTreeMap<String, PathBuf>;

/// Finds the programs beside this one.
///
/// # Errors
/// When one is not there.
pub fn locate() -> anyhow::Result<Programs> {
    let directory = own_directory()?;
    let find = |name: &str| {
        let path = directory.join(name);
        if !path.is_file() {
            bail!(
                "{} is not there; start the demo with `cargo run --release -p weir -- demo`, which builds it, \
                 or put it beside weir",
                path.display()
            );
        }
        Ok((name.to_owned(), path))
    };
    PROGRAMS.into_iter().map(find).collect()
}

/// Where cargo puts programs: tests are one directory deeper.
fn own_directory() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    let directory = own.parent().context("this program is nowhere")?;
    Ok(match directory.parent() {
        Some(parent) if directory.ends_with("deps") => parent.to_owned(),
        _ => directory.to_owned(),
    })
}

/// Builds the programs when started by `cargo run` or `cargo test` of this package alone, which do not: with the
/// same profile, into the same directory.
///
/// # Errors
/// When one does not build.
pub fn build() -> anyhow::Result<()> {
    let (Some(cargo), Some(manifest)) = (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) else {
        return Ok(());
    };
    let directory = own_directory()?;
    let mut command = Command::new(&cargo);
    command
        .arg("build")
        .arg("--manifest-path")
        .arg(Path::new(&manifest).join("Cargo.toml"));
    if directory.file_name().is_some_and(|profile| profile == "release") {
        command.arg("--release");
    }
    if let Some(target) = directory.parent() {
        command.arg("--target-dir").arg(target);
    }
    for program in PROGRAMS {
        command.args(["--package", program]);
    }
    // Standard output is the demo's own.
    let status = command.stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {}", cargo.to_string_lossy()))?;
    if !status.success() {
        bail!("the programs of the mesh do not build; cargo says why above");
    }
    Ok(())
}
