//! Static programs, made by cargo for the machine it runs on: they need no file of an image but themselves.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::linked;

/// The profile of the workspace that is for programs in images.
const PROFILE: &str = "shipped";

/// Builds these packages as they are shipped, linked statically and without symbols, and says where the programs are.
///
/// # Errors
/// When cargo fails, or what it makes is not static.
pub fn compile(packages: &[&str]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let triple = host()?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Named even though it is the host's own: build scripts and macros are then linked as they always are.
    let status = Command::new(&cargo)
        .current_dir(&workspace)
        .args(["build", "--profile", PROFILE, "--locked", "--target", &triple])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        // A profile's `strip` is lost on packages for which the profile says anything else.
        .args([
            "--config",
            &format!("target.{triple}.rustflags=[\"-Ctarget-feature=+crt-static\", \"-Cstrip=symbols\"]"),
        ])
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cargo build failed ({status})");
    let directory = target_directory(&cargo, &workspace)?.join(triple).join(PROFILE);
    let found = packages.iter().map(|package| {
        let program = directory.join(package);
        let libraries = linked::libraries(&program)?;
        ensure!(
            libraries.is_empty(),
            "{} is linked with {libraries:?}",
            program.display()
        );
        Ok(((*package).to_owned(), program))
    });
    found.collect()
}

/// The triple of this machine.
fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("cannot start rustc")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

fn target_directory(cargo: &std::ffi::OsStr, workspace: &Path) -> anyhow::Result<PathBuf> {
    let output = Command::new(cargo)
        .current_dir(workspace)
        .args(["metadata", "--no-deps", "--format-version=1"])
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let directory = metadata["target_directory"].as_str();
    Ok(directory
        .context("cargo metadata names no target directory")?
        .into())
}

#[cfg(test)]
mod tests {
    use super::PROFILE;

    #[test]
    fn the_dockerfile_takes_the_programs_from_where_they_are_built() {
        let dockerfile = include_str!("../Dockerfile");
        assert!(dockerfile.contains(&format!("target/*-linux-gnu/{PROFILE}/")));
    }
}
