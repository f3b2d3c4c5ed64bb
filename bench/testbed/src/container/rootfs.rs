//! A container's root file system: a tmpfs with the host's programs and libraries bound read-only,
//! own `/tmp`, `/run`, `/dev` and `/proc`, and the pod's volumes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};

use super::Spec;
use super::shim::ShimError;

/// Host directories every container sees, read-only: its programs and libraries.
const HOST: [&str; 9] = [
    "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu",
];
/// The parts of the host's /etc that programs and the dynamic linker need.
const ETC: [&str; 17] = [
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "gai.conf",
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mysql",
    "my.cnf",
    "passwd",
    "pki",
    "protocols",
    "services",
    "ssl",
    "terminfo",
];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const NONE: Option<&str> = None;

/// Builds the root of `spec` and moves into it. The process must have its own mount namespace.
pub(super) fn enter(spec: &Spec) -> Result<(), ShimError> {
    let root = &spec.root;
    make_dir(root)?;
    tmpfs(root, "mode=0755,size=64m")?;
    for name in HOST {
        mirror(&Path::new("/").join(name), &root.join(name))?;
    }
    make_dir(&root.join("etc"))?;
    for name in ETC {
        mirror(&Path::new("/etc").join(name), &root.join("etc").join(name))?;
    }
    write(
        &root.join("etc/nsswitch.conf"),
        "passwd: files\ngroup: files\nhosts: files\nservices: files\n",
    )?;
    for name in [
        "tmp", "run", "var", "var/tmp", "var/lib", "var/log", "root", "home", "dev", "proc", "sys", "opt",
        "srv",
    ] {
        make_dir(&root.join(name))?;
    }
    for name in ["tmp", "var/tmp", "run", "var/lib", "var/log"] {
        open_to_all(&root.join(name))?;
    }
    link("../run", &root.join("var/run"))?;
    devices(root)?;
    kernel_views(root)?;
    for mount in &spec.mounts {
        bind(&mount.source, &inside(root, &mount.target), mount.read_only)?;
    }
    if spec.read_only_root {
        tmpfs(&root.join("tmp"), "mode=1777")?;
        remount_read_only(root)?;
    }
    chdir(root).map_err(|e| ShimError::new("enter", root, e))?;
    pivot_root(".", ".").map_err(|e| ShimError::new("pivot into", root, e))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|e| ShimError::new("leave the old root for", root, e))?;
    chdir("/").map_err(|e| ShimError::new("enter", Path::new("/"), e))
}

fn inside(root: &Path, target: &Path) -> PathBuf {
    root.join(target.strip_prefix("/").unwrap_or(target))
}

fn devices(root: &Path) -> Result<(), ShimError> {
    for name in DEVICES {
        let source = Path::new("/dev").join(name);
        if source.exists() {
            bind(&source, &root.join("dev").join(name), false)?;
        }
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        link(target, &root.join("dev").join(name))?;
    }
    make_dir(&root.join("dev/shm"))?;
    tmpfs(&root.join("dev/shm"), "mode=1777,size=64m")
}

/// /proc and /sys. A fresh sysfs shows the pod's own network devices; where it is refused there is none.
fn kernel_views(root: &Path) -> Result<(), ShimError> {
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let proc = root.join("proc");
    mount(Some("proc"), &proc, Some("proc"), strict, NONE).map_err(|e| ShimError::new("mount", &proc, e))?;
    let sys = root.join("sys");
    let _optional = mount(
        Some("sysfs"),
        &sys,
        Some("sysfs"),
        strict | MsFlags::MS_RDONLY,
        NONE,
    );
    Ok(())
}

/// Shows a host file, directory or symbolic link read-only; what the host lacks is left out.
fn mirror(source: &Path, target: &Path) -> Result<(), ShimError> {
    match fs::symlink_metadata(source) {
        Err(_) => Ok(()),
        Ok(meta) if meta.is_symlink() => {
            let to = fs::read_link(source).map_err(|e| ShimError::io("read", source, &e))?;
            link(to, target)
        }
        Ok(_) => bind(source, target, true),
    }
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Result<(), ShimError> {
    if source.is_dir() {
        make_dir(target)?;
    } else if !target.exists() {
        if let Some(parent) = target.parent() {
            make_dir(parent)?;
        }
        write(target, "")?;
    }
    mount(
        Some(source),
        target,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
    .map_err(|e| ShimError::new("bind", source, e))?;
    if read_only {
        remount_read_only(target)
    } else {
        Ok(())
    }
}

/// The flags the mount already has must be repeated: in a user namespace they are locked.
fn remount_read_only(target: &Path) -> Result<(), ShimError> {
    let current = statvfs(target)
        .map_err(|e| ShimError::new("inspect", target, e))?
        .flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for (has, keep) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if current.contains(has) {
            flags |= keep;
        }
    }
    mount(NONE, target, NONE, flags, NONE).map_err(|e| ShimError::new("make read-only", target, e))
}

fn tmpfs(target: &Path, options: &str) -> Result<(), ShimError> {
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options),
    )
    .map_err(|e| ShimError::new("mount a tmpfs on", target, e))
}

fn make_dir(path: &Path) -> Result<(), ShimError> {
    fs::create_dir_all(path).map_err(|e| ShimError::io("create", path, &e))
}

fn open_to_all(path: &Path) -> Result<(), ShimError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).map_err(|e| ShimError::io("open", path, &e))
}

fn write(path: &Path, text: &str) -> Result<(), ShimError> {
    fs::write(path, text).map_err(|e| ShimError::io("write", path, &e))
}

fn link(to: impl AsRef<Path>, at: &Path) -> Result<(), ShimError> {
    symlink(to, at).map_err(|e| ShimError::io("link", at, &e))
}
