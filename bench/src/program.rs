//! Where the programs are that are measured.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::ensure;

/// One of Weir's programs: as given, or the one beside this program.
///
/// # Errors
/// When it is not there.
pub(crate) fn of_weir(given: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(path) => path.to_owned(),
        None => env::current_exe()?.with_file_name(name),
    };
    ensure!(
        program.is_file(),
        "{} is not there: cargo build --release -p {name}, or give its path",
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
