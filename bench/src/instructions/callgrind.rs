//! A program under callgrind: started, asked to write its counters, and what it wrote.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::process::Process;

/// How long the counters of a program may take to be written.
const WRITING: Duration = Duration::from_secs(60);
/// Functions that ask the kernel for something, as the C library names them; what a proxy calls for each request.
const SYSCALLS: [&str; 26] = [
    "accept4",
    "bind",
    "clock_nanosleep",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_wait",
    "fcntl",
    "fcntl64",
    "getpeername",
    "getsockname",
    "getsockopt",
    "madvise",
    "mmap",
    "munmap",
    "read",
    "readv",
    "recv",
    "recvmsg",
    "send",
    "sendmsg",
    "setsockopt",
    "shutdown",
    "socket",
    "write",
    "writev",
];

/// A program under callgrind. Ends when dropped.
pub(super) struct Profiled {
    process: Process,
    /// Where its profiles go: this, a dot and a number.
    out: PathBuf,
    written: u32,
}

/// What a program did between two writings of its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counted {
    pub(super) instructions: u64,
    pub(super) syscalls: u64,
}

impl Profiled {
    /// Starts it, without callgrind if not `counted`; profiles are called `name` in `directory`, and what it says goes
    /// there, too.
    ///
    /// # Errors
    /// When there is no valgrind where it is needed, or no such program.
    pub(super) fn start(
        program: &Path,
        arguments: &[&str],
        directory: &Path,
        name: &str,
        counted: bool,
    ) -> anyhow::Result<Self> {
        let out = directory.join(name);
        let mut command = if counted {
            let mut valgrind = Command::new("valgrind");
            valgrind
                .args(["--tool=callgrind", "--quiet"])
                .arg(format!("--callgrind-out-file={}", out.display()))
                .arg(program);
            valgrind
        } else {
            Command::new(program)
        };
        command.args(arguments);
        let log = directory.join(format!("{name}.log"));
        Ok(Self {
            process: Process::start(command, &log, |command| Ok(command.spawn()?))?,
            out,
            written: 0,
        })
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(super) fn is_gone(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.ended()?.is_some())
    }

    /// Its resident memory, in KiB.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn resident(&self) -> anyhow::Result<u64> {
        Ok(self.process.rss()? / 1024)
    }

    /// What it said last.
    pub(super) fn said(&self) -> String {
        self.process.said()
    }

    /// Has the counters written and set to zero.
    ///
    /// # Errors
    /// When the program does not answer.
    pub(super) fn write(&mut self, hint: &str) -> anyhow::Result<()> {
        let asked = Command::new("vgdb")
            .arg(format!("--pid={}", self.process.id()))
            .args(["dump", hint])
            .output()
            .context("cannot start vgdb; it comes with valgrind")?;
        let said = String::from_utf8_lossy(&asked.stderr);
        ensure!(asked.status.success(), "vgdb cannot reach the program: {said}");
        self.written += 1;
        let begin = Instant::now();
        while self.counted().is_err() {
            ensure!(
                begin.elapsed() < WRITING,
                "{} was not written",
                self.profile().display()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The profile written last.
    pub(super) fn profile(&self) -> PathBuf {
        let mut path = self.out.clone().into_os_string();
        path.push(format!(".{}", self.written));
        path.into()
    }

    /// What the profile written last counts.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn counted(&self) -> anyhow::Result<Counted> {
        let path = self.profile();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        counted(&text).with_context(|| format!("{} is not a profile", path.display()))
    }
}

/// Reads a profile: <https://valgrind.org/docs/manual/cl-format.html>. Its last line is that of the sum.
fn counted(text: &str) -> anyhow::Result<Counted> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut called = "";
    let mut counted = Counted::default();
    let mut complete = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            resolve(&mut names, name);
        } else if let Some(name) = line.strip_prefix("cfn=") {
            called = resolve(&mut names, name);
        } else if let Some(calls) = line.strip_prefix("calls=") {
            let count = calls
                .split(' ')
                .next()
                .and_then(|count| count.parse::<u64>().ok());
            if SYSCALLS.contains(&called) {
                counted.syscalls += count.context("a line of calls without a number")?;
            }
        } else if let Some(sum) = line.strip_prefix("totals: ") {
            counted.instructions = sum.trim().parse().context("no number in the line of totals")?;
            complete = true;
        }
    }
    if !complete {
        bail!("no line of totals");
    }
    Ok(counted)
}

/// A function's name: `(number) name` where it comes first, `(number)` after that.
fn resolve<'a>(names: &mut HashMap<&'a str, &'a str>, written: &'a str) -> &'a str {
    let (number, name) = written.split_once(' ').unwrap_or((written, ""));
    if !name.is_empty() {
        names.insert(number, plain(name));
    }
    names.get(number).copied().unwrap_or_default()
}

/// Without what valgrind and the C library put around it: `__recv'2`, `write@@GLIBC_2.2.5`.
fn plain(name: &str) -> &str {
    let end = name.find(['@', '\'']).unwrap_or(name.len());
    name[..end].trim_start_matches('_').trim_start_matches("libc_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "version: 1\nevents: Ir\n\nfn=(1) main\n16 400\ncfn=(2) recv\ncalls=3 50\n16 400\n\
                           fn=(2)\n1 20\ncfn=(3) memcpy@@GLIBC_2.14\ncalls=7 50\n16 9\n\
                           fn=(4) poll\n1 2\ncfn=(2)\ncalls=2 0\n1 1\ncfn=(5) __libc_send\ncalls=1 0\n1 1\n\ntotals: 429\n";

    #[test]
    fn a_profile_gives_instructions_and_system_calls() {
        let wanted = Counted {
            instructions: 429,
            syscalls: 6,
        };
        assert_eq!(counted(PROFILE).unwrap(), wanted);
    }

    #[test]
    fn half_a_profile_is_none() {
        assert!(counted(&PROFILE.replace("totals: 429\n", "")).is_err());
        assert!(counted(&PROFILE.replace("totals: 429", "totals: many")).is_err());
    }
}
