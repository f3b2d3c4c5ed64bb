//! Entering the sandbox: fresh user, mount, network, process, IPC and host-name namespaces.
//!
//! [`Sandbox::enter`] is called first thing in `main`, while the program has one thread. It re-executes
//! the program (`/proc/self/exe`), told apart by `argv[0]`, in these stages:
//!
//! ```text
//! caller ── unshares, then only waits ──► init (PID 1 inside, reaps) ──► the program proper
//!    └── mapper (stays outside; writes the user id maps)
//! ```
//! The program proper later starts containers the same way (stage `container`), so the testbed needs no
//! second binary. `init` is killed by the kernel when the caller dies; the kernel then kills every
//! process of the namespace and frees all namespaces, mounts and links with them.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid, mkdir, sethostname};

mod errors;
mod idmap;

pub use errors::EnterError;

/// Environment variable that marks the program proper; its value tells which user ids exist.
const INSIDE: &str = "WEIR_SANDBOX";
/// Environment variable that tells `init` whose end is its own: the caller's process id.
const CALLER: &str = "WEIR_SANDBOX_CALLER";
const SCRATCH: &str = "/run/weir";
const MAPPER: &str = "weir-sandbox-map";
const INIT: &str = "weir-sandbox-init";
/// `argv[0]` of a process that is to become a container.
pub(crate) const CONTAINER: &str = "weir-sandbox-container";

/// Proof that the process runs inside the sandbox. [`crate::Testbed::start`] asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Sandbox {
    single_uid: bool,
}

impl Sandbox {
    /// Enters the sandbox. Call it first in a single-threaded `main`, before any runtime is started.
    ///
    /// Returns only in the re-executed program. The calling process itself waits here, passes on
    /// SIGTERM, SIGHUP and SIGINT, and exits with the program's status.
    ///
    /// # Errors
    /// When the kernel or a container runtime forbids the namespaces; the text names the setting.
    pub fn enter() -> Result<Self, EnterError> {
        Self::enter_by(launch)
    }

    /// As [`Sandbox::enter`], without a user namespace: root inside is the machine's own root, as a container
    /// runtime needs that makes device files and control groups. What the other namespaces do not cover is the
    /// host's own there.
    ///
    /// # Errors
    /// Also when the caller is not root.
    pub fn enter_as_root() -> Result<Self, EnterError> {
        Self::enter_by(|| match geteuid().is_root() {
            true => {
                unshare(NAMESPACES).map_err(EnterError::namespaces)?;
                run(forwarded_signals()?, "full")
            }
            false => Err(EnterError::NotRoot),
        })
    }

    fn enter_by(launch: impl FnOnce() -> Result<i32, EnterError>) -> Result<Self, EnterError> {
        let arg0 = std::env::args_os().next().unwrap_or_default();
        match arg0.to_str() {
            Some(MAPPER) => std::process::exit(idmap::run_mapper()),
            Some(INIT) => std::process::exit(exit_code("sandbox init", run_init())),
            Some(CONTAINER) => std::process::exit(crate::container::shim::run()),
            _ => {}
        }
        if std::env::var_os(INSIDE).is_some() {
            // `init` blocks signals to read them from a file; masks are inherited, by containers too.
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
                .map_err(|e| EnterError::step("unblock signals", e))?;
        }
        match std::env::var(INSIDE).as_deref() {
            Ok("single") => Ok(Self { single_uid: true }),
            Ok(_) => Ok(Self { single_uid: false }),
            Err(_) => std::process::exit(launch()?),
        }
    }

    /// Whether the process is in the sandbox, or one of its stages, whose command line is not the program's own.
    /// What has to be done outside is to be done while this is false.
    #[must_use]
    pub fn entered() -> bool {
        let arg0 = std::env::args_os().next().unwrap_or_default();
        let stage = [MAPPER, INIT, CONTAINER].iter().any(|stage| arg0 == *stage);
        stage || std::env::var_os(INSIDE).is_some()
    }

    /// A directory in memory that only the sandbox sees: it is gone with it, however it ends.
    #[must_use]
    pub fn scratch(&self) -> &'static Path {
        Path::new(SCRATCH)
    }

    /// Whether only one user id exists inside (no subordinate ids and not root). Containers that ask
    /// for another user then run as that one id.
    #[must_use]
    pub fn single_uid(&self) -> bool {
        self.single_uid
    }
}

fn exit_code(stage: &str, result: Result<i32, EnterError>) -> i32 {
    result.unwrap_or_else(|error| {
        eprintln!("{stage}: {error}");
        125
    })
}

/// All namespaces of the sandbox but the user's.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// The caller's part: make the namespaces, have the ids mapped, start `init`, wait for it.
fn launch() -> Result<i32, EnterError> {
    let signals = forwarded_signals()?;
    let mut mapper = idmap::Mapper::spawn()?;
    let ids = match unshare(NAMESPACES | CloneFlags::CLONE_NEWUSER) {
        Ok(()) => mapper.map()?,
        Err(errno) if geteuid().is_root() && errno != Errno::EINVAL => {
            unshare(NAMESPACES).map_err(|_| EnterError::namespaces(errno))?;
            mapper.dismiss();
            "full"
        }
        Err(errno) => return Err(EnterError::namespaces(errno)),
    };
    run(signals, ids)
}

/// Starts `init` in the namespaces made, and waits for it.
fn run(signals: SignalFd, ids: &str) -> Result<i32, EnterError> {
    let mut init = Command::new("/proc/self/exe");
    init.arg0(INIT)
        .args(std::env::args_os())
        .env(INSIDE, ids)
        .env(CALLER, std::process::id().to_string());
    let child = init.spawn().map_err(|source| EnterError::Spawn {
        stage: "init",
        source,
    })?;
    supervise(&signals, &child)
}

/// PID 1 of the sandbox: die with the caller, own `/proc`, start the program, reap every orphan.
fn run_init() -> Result<i32, EnterError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| EnterError::step("set the parent-death signal", e))?;
    // No signal comes for a caller that died before it was asked for.
    if parent() != std::env::var(CALLER).ok() {
        return Err(EnterError::step("find the caller, which is gone,", Errno::ESRCH));
    }
    let signals = forwarded_signals()?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| EnterError::step("make mounts private", e))?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none,
    )
    .map_err(EnterError::Proc)?;
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )
    .and_then(|()| {
        mkdir(
            SCRATCH,
            Mode::S_IRWXU | Mode::S_IRGRP | Mode::S_IXGRP | Mode::S_IROTH | Mode::S_IXOTH,
        )
    })
    .map_err(|e| EnterError::step("mount a file system of its own on /run", e))?;
    sethostname("weir-node").map_err(|e| EnterError::step("set the host name", e))?;
    let mut args = std::env::args_os().skip(1);
    let name = args.next().unwrap_or_else(|| OsString::from("weir"));
    let child = Command::new("/proc/self/exe")
        .arg0(name)
        .args(args)
        .env_remove(CALLER)
        .spawn()
        .map_err(|source| EnterError::Spawn {
            stage: "program",
            source,
        })?;
    supervise(&signals, &child)
}

/// The parent's process id as the caller's namespace has it: inside, a parent from outside has none. Needs the
/// caller's `/proc`.
fn parent() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(parent.trim().to_owned())
}

/// Blocks the signals that are to be passed on (and SIGCHLD), and returns the file they are read from.
fn forwarded_signals() -> Result<SignalFd, EnterError> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGCHLD,
    ] {
        set.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(|e| EnterError::step("block signals", e))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).map_err(|e| EnterError::step("open a signalfd", e))
}

/// Passes signals on to `child` and reaps until it ends; its status becomes ours.
fn supervise(signals: &SignalFd, child: &Child) -> Result<i32, EnterError> {
    let pid = Pid::from_raw(child.id().cast_signed());
    loop {
        let Some(info) = signals
            .read_signal()
            .map_err(|e| EnterError::step("read signals", e))?
        else {
            continue;
        };
        let number = info.ssi_signo.cast_signed();
        if number == Signal::SIGCHLD as i32 {
            if let Some(code) = reap(pid)? {
                return Ok(code);
            }
        } else if info.ssi_code <= 0 {
            // Sent by a process. What the terminal sends reaches the whole foreground group by itself.
            if let Ok(signal) = Signal::try_from(number) {
                let _gone_already = kill(pid, signal);
            }
        }
    }
}

/// Reaps all ended children; the exit code of `wanted` if it is among them.
fn reap(wanted: Pid) -> Result<Option<i32>, EnterError> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == wanted => return Ok(Some(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == wanted => {
                return Ok(Some(128 + signal as i32));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(EnterError::step("wait for the program", errno)),
        }
    }
}
