//! The demo without root. Only root can try it as somebody else.

use std::{os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::ensure;
use nix::unistd::geteuid;

use crate::{
    Outcome,
    programs::Copies,
    run::{self, Ran},
};

/// Nobody, on every Linux.
const NOBODY: u32 = 65534;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Begins with a mount namespace of its own, in which nobody has subordinate ids.
const WITH_RANGE: &str = "set -e
echo 65534:200000:65536 > \"$1/ids\"
mount --bind \"$1/ids\" /etc/subuid
mount --bind \"$1/ids\" /etc/subgid
program=\"$2\"
shift 2
exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$program\" \"$@\"";

fn as_root() -> Result<(), String> {
    match geteuid().is_root() {
        true => Ok(()),
        false => {
            Err("the other tests run as another user than root already; run this one as root".to_owned())
        }
    }
}

/// `weir` as nobody.
fn as_nobody(weir: &Path) -> Command {
    let mut command = run::weir(weir);
    command
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY);
    command
}

fn with_range(weir: &Path, scratch: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", WITH_RANGE, "sh"])
        .args([scratch, weir])
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/");
    command
}

fn has(program: &str) -> bool {
    PATH.split(':')
        .any(|directory| Path::new(directory).join(program).is_file())
}

pub(crate) fn single_possible() -> Result<(), String> {
    as_root()?;
    let copies = Copies::make().map_err(|error| format!("{error:#}"))?;
    run::allowed(as_nobody(&copies.weir()))
}

pub(crate) fn range_possible() -> Result<(), String> {
    as_root()?;
    for (program, package) in [
        ("newuidmap", "uidmap"),
        ("newgidmap", "uidmap"),
        ("unshare", "util-linux"),
        ("setpriv", "util-linux"),
    ] {
        if !has(program) {
            return Err(format!("{program} is not installed (Debian: {package})"));
        }
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        if !Path::new(file).is_file() {
            return Err(format!("there is no {file} to put another in place of"));
        }
    }
    let copies = Copies::make().map_err(|error| format!("{error:#}"))?;
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    run::allowed(with_range(&copies.weir(), scratch.path()))
}

pub(crate) fn single() -> Outcome {
    let copies = Copies::make()?;
    let mut command = as_nobody(&copies.weir());
    command.args(["demo", "--check"]);
    all_hold(&run::to_end(command)?)
}

pub(crate) fn range() -> Outcome {
    let copies = Copies::make()?;
    let scratch = tempfile::tempdir()?;
    let mut command = with_range(&copies.weir(), scratch.path());
    command.args(["demo", "--check"]);
    all_hold(&run::to_end(command)?)
}

fn all_hold(ran: &Ran) -> Outcome {
    let held = ran.stdout.lines().filter(|line| line.starts_with("ok ")).count();
    ensure!(
        ran.status.success() && held == 8,
        "{}, {held} of 8 phases hold\n{}\n{}",
        ran.status,
        ran.stdout,
        ran.stderr
    );
    Ok(())
}
