//! Where the programs are that are measured.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

/// The profile that images are built with.
const SHIPPED: &str = "shipped";

/// One of Weir's programs: as given, or the one beside this program.
///
/// # Errors
/// When it is not there.
pub(crate) fn of_weir(given: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    find(given, name, "release", |own| own.parent().map(Path::to_owned))
}

/// One of Weir's programs as images contain it: as given, or the one built so beside this program.
///
/// # Errors
/// When it is not there.
pub(crate) fn shipped_by_weir(given: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    find(given, name, SHIPPED, |own| {
        own.ancestors().nth(2).map(|target| target.join(SHIPPED))
    })
}

fn find(
    given: Option<&Path>,
    name: &str,
    profile: &str,
    directory: impl Fn(&Path) -> Option<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(path) => path.to_owned(),
        None => {
            let directory = directory(&env::current_exe()?);
            directory.context("this program is in no directory")?.join(name)
        }
    };
    ensure!(
        program.is_file(),
        "{} is not there: cargo build --profile {profile} -p {name}, or give its path",
        program.display()
    );
    Ok(program)
}

/// The program of this name on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path: &PathBuf| path.is_file())
}
