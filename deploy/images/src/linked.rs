//! What a dynamically linked program needs beside itself.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::Image;

/// The libraries that a program is linked with, its loader included, where they are on this machine; none for a
/// static one.
///
/// # Errors
/// When `ldd`, which is asked, is not there, or a library is missing.
pub fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot start ldd (package libc-bin)")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    if said.contains("statically linked") || complained.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    ensure!(
        output.status.success() && !said.contains("not found"),
        "ldd {}: {}: {said}{complained}",
        program.display(),
        output.status
    );
    Ok(said.lines().filter_map(library).collect())
}

/// `name => path (address)`, or `path (address)` for the loader.
fn library(line: &str) -> Option<PathBuf> {
    let line = line.rsplit("=>").next()?.trim();
    let path = line.split(" (").next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

impl Image {
    /// Adds a program and the libraries that it needs, which keep their places.
    ///
    /// # Errors
    /// As [`libraries`].
    pub fn program(self, from: &Path, to: &str) -> anyhow::Result<Self> {
        let image = self.file(from, to);
        let needed = libraries(from)?.into_iter();
        Ok(needed.fold(image, |image, library| {
            let place = library.to_string_lossy().into_owned();
            image.file(library, &place)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd_are_understood() {
        let path = |line| library(line).map(|path| path.display().to_string());
        assert_eq!(
            path("\tlibc.so.6 => /lib/libc.so.6 (0x00007f)").as_deref(),
            Some("/lib/libc.so.6")
        );
        assert_eq!(
            path("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)").as_deref(),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(path("\tlinux-vdso.so.1 (0x00007f)"), None);
    }

    #[test]
    fn this_test_needs_the_c_library() {
        let own = std::env::current_exe().unwrap();
        let libraries = libraries(&own).unwrap();
        assert!(
            libraries
                .iter()
                .any(|path| path.to_string_lossy().contains("libc.so")),
            "{libraries:?}"
        );
    }
}
