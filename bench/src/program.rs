//! Where the programs are that are measured, and how large.

use std::{
    env, fs,
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

/// The size of a program, in bytes, without what only a debugger reads.
///
/// # Errors
/// When it is not an ELF file.
pub(crate) fn size(program: &Path) -> anyhow::Result<u64> {
    let file = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    loaded(&file).with_context(|| program.display().to_string())
}

/// Bytes of a program that are loaded. `man 5 elf` has the format.
fn loaded(program: &[u8]) -> anyhow::Result<u64> {
    const LOAD: u64 = 1;
    ensure!(
        program.starts_with(b"\x7fELF\x02\x01"),
        "the program is not a 64-bit little-endian ELF file"
    );
    let headers = number(program, 32, 8)?;
    let (size, count) = (number(program, 54, 2)?, number(program, 56, 2)?);
    let mut loaded = 0_u64;
    for index in 0..count {
        let header = usize::try_from(headers.saturating_add(index * size))?;
        if number(program, header, 4)? == LOAD {
            let size = number(program, header.saturating_add(32), 8)?;
            loaded = loaded.saturating_add(size);
        }
    }
    ensure!(loaded > 0, "the program has nothing to load");
    Ok(loaded)
}

fn number(program: &[u8], at: usize, length: usize) -> anyhow::Result<u64> {
    let bytes = program.get(at..).and_then(|rest| rest.get(..length));
    let bytes = bytes.context("the program file ends too early")?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_program_is_what_is_loaded_of_it() {
        let path = std::env::current_exe().unwrap();
        let file = fs::read(path).unwrap();
        let size = loaded(&file).unwrap();
        assert!(size > 100_000 && size < file.len() as u64, "{size}");
        assert!(loaded(&file[..64]).is_err());
        assert!(loaded(b"#!/bin/sh").is_err());
    }
}
