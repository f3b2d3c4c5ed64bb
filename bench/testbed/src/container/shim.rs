//! The stage `container`: a fresh single-threaded process turns itself into the container.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, chdir, setgroups, sethostname, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, remove_capability_from_bounding_set,
    set_capabilities,
};

use super::{Spec, rootfs};

/// Exit code of a container whose process could not be made, as container runtimes use it.
const CANNOT_START: i32 = 128;

/// A step on the way into the container failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {reason}")]
pub(super) struct ShimError {
    what: &'static str,
    path: String,
    reason: String,
}

impl ShimError {
    pub(super) fn new(what: &'static str, path: &Path, errno: Errno) -> Self {
        Self {
            what,
            path: path.display().to_string(),
            reason: errno.to_string(),
        }
    }

    pub(super) fn io(what: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self {
            what,
            path: path.display().to_string(),
            reason: error.to_string(),
        }
    }

    fn step(what: &'static str, path: &str, reason: impl ToString) -> Self {
        Self {
            what,
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// The stage's `main`; returns only when the container could not be started.
pub(crate) fn run() -> i32 {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return CANNOT_START;
    };
    match start(&path) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("weir-testbed: container did not start: {error}");
            CANNOT_START
        }
    }
}

fn start(spec_file: &Path) -> Result<std::convert::Infallible, ShimError> {
    let text = std::fs::read(spec_file).map_err(|e| ShimError::io("read", spec_file, &e))?;
    let spec: Spec =
        serde_json::from_slice(&text).map_err(|e| ShimError::step("parse", "container spec", e))?;
    let netns = File::open(&spec.netns).map_err(|e| ShimError::io("open", &spec.netns, &e))?;
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|e| ShimError::new("join", &spec.netns, e))?;
    if let Some(pid) = spec.join {
        join(pid)?;
    } else {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
            .map_err(|e| ShimError::step("make", "mount namespace", e))?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
            .map_err(|e| ShimError::step("separate", "mounts", e))?;
        sethostname(&spec.hostname).map_err(|e| ShimError::step("set host name", &spec.hostname, e))?;
        rootfs::enter(&spec)?;
    }
    chdir(&spec.working_dir).map_err(|e| ShimError::new("enter", &spec.working_dir, e))?;
    become_user(&spec)?;
    let (program, args) = spec
        .argv
        .split_first()
        .ok_or_else(|| ShimError::step("run", "container", "no command"))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(spec.env.iter().map(|(k, v)| (k, v)));
    let error = command.exec();
    Err(ShimError::io("execute", Path::new(program), &error))
}

/// Enters a running container's mounts and host name.
fn join(pid: u32) -> Result<(), ShimError> {
    for (name, flag) in [
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ] {
        let path = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
        let file = File::open(&path).map_err(|e| ShimError::io("open", &path, &e))?;
        setns(file, flag).map_err(|e| ShimError::new("join", &path, e))?;
    }
    Ok(())
}

/// Drops to the container's user and capabilities.
///
/// A user other than root that asks for capabilities gets them as ambient ones, so that the program
/// holds them after `execve` without file capabilities.
fn become_user(spec: &Spec) -> Result<(), ShimError> {
    let step = |what: &'static str| move |e: rustix::io::Errno| ShimError::step(what, "for the container", e);
    let keep = CapabilitySet::from_bits_retain(spec.capabilities);
    for bit in 0..=40u32 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !keep.contains(one) {
            let _unknown_to_an_older_kernel = remove_capability_from_bounding_set(one);
        }
    }
    if !spec.single_uid {
        prctl::set_keepcaps(true).map_err(|e| ShimError::step("keep", "capabilities", e))?;
        let groups: Vec<Gid> = spec.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).map_err(|e| ShimError::step("set", "groups", e))?;
        let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
        setresgid(gid, gid, gid).map_err(|e| ShimError::step("become group", &spec.gid.to_string(), e))?;
        setresuid(uid, uid, uid).map_err(|e| ShimError::step("become user", &spec.uid.to_string(), e))?;
    }
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: keep,
    };
    set_capabilities(None, sets).map_err(step("set capabilities"))?;
    if spec.uid != 0 {
        for one in keep.iter() {
            configure_capability_in_ambient_set(one, true).map_err(step("pass on capabilities"))?;
        }
    }
    if spec.no_new_privileges {
        prctl::set_no_new_privs().map_err(|e| ShimError::step("forbid", "new privileges", e))?;
    }
    Ok(())
}
