//! The programs of the mesh in a directory of a test's own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tempfile::TempDir;

/// Where cargo put `weir`; the others are beside it.
pub(crate) const WEIR: &str = env!("CARGO_BIN_EXE_weir");
const OTHERS: [&str; 4] = ["weir-proxy", "weir-controller", "weir-init", "weir-bookstore"];

/// Copies of all programs, which everybody may read and run.
pub(crate) struct Copies(TempDir);

impl Copies {
    pub(crate) fn make() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("weir-demo-test-").tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let beside = Path::new(WEIR).parent().context("weir is nowhere")?;
        for program in OTHERS.into_iter().chain(["weir"]) {
            let (from, to) = (beside.join(program), directory.path().join(program));
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self(directory))
    }

    /// Puts a program that always fails in place of one.
    pub(crate) fn break_program(&self, name: &str) -> anyhow::Result<()> {
        let path = self.0.path().join(name);
        fs::remove_file(&path)?;
        fs::copy("/bin/false", &path)?;
        Ok(())
    }

    pub(crate) fn weir(&self) -> PathBuf {
        self.0.path().join("weir")
    }
}
