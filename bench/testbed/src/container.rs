//! A container: one process tree with its own root file system, in its pod's network namespace.
//!
//! [`Spec`] says everything about one start; [`spawn`] writes it to a file and re-executes the program
//! as stage `container`, where [`shim`] builds the root file system, drops privileges and executes.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};

pub(crate) mod capabilities;
mod rootfs;
pub(crate) mod shim;

/// A file or directory of the host shown inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// Everything a container's process needs, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Network namespace, as a path.
    pub(crate) netns: PathBuf,
    pub(crate) hostname: String,
    /// Empty directory that becomes the root; `None`: join `join` instead of making a root.
    pub(crate) root: PathBuf,
    /// Join the mount namespace of this process: `exec` into a running container.
    pub(crate) join: Option<u32>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) read_only_root: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Only one id exists: stay that id whatever `uid` says.
    pub(crate) single_uid: bool,
    /// Capabilities to keep, as a bit set.
    pub(crate) capabilities: u64,
    pub(crate) no_new_privileges: bool,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: PathBuf,
    pub(crate) argv: Vec<String>,
}

/// Starts the process that becomes the container; its own process group, stdin empty.
pub(crate) fn spawn(
    spec: &Spec,
    spec_file: &Path,
    stdout: Stdio,
    stderr: Stdio,
) -> std::io::Result<tokio::process::Child> {
    std::fs::write(spec_file, serde_json::to_vec(spec)?)?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .arg0(crate::sandbox::CONTAINER)
        .arg(spec_file)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0);
    tokio::process::Command::from(command).kill_on_drop(true).spawn()
}
