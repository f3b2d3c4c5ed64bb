//! A program that is measured: how it is started, what it costs, and what it says.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

use crate::program;

/// The most that is told of what a program said, in bytes.
const TOLD: u64 = 4096;

/// Runs until it is dropped. Its children in turn end with the sandbox.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Process {
    /// Has `spawn` start a command, which inherits the calling thread's network and core; what it says goes to a new
    /// file `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(
        command: Command,
        log: &Path,
        spawn: impl FnOnce(&mut Command) -> anyhow::Result<Child>,
    ) -> anyhow::Result<Self> {
        let written = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Self {
            child: spawned(command, written, spawn)?,
            log: log.to_owned(),
        })
    }

    /// Ends it and starts another in its place; what that says is added to the log.
    ///
    /// # Errors
    /// When that cannot be started.
    pub(crate) fn replace(
        &mut self,
        command: Command,
        spawn: impl FnOnce(&mut Command) -> anyhow::Result<Child>,
    ) -> anyhow::Result<()> {
        self.end();
        let written = File::options().append(true).open(&self.log)?;
        self.child = spawned(command, written, spawn)?;
        Ok(())
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not know it.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// CPU time that it has used so far, with all its threads and living children.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.family().into_iter().map(cpu).sum()
    }

    /// Resident memory, with that of its children, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn rss(&self) -> anyhow::Result<u64> {
        self.family()
            .into_iter()
            .map(|process| memory(process, "VmRSS:"))
            .sum()
    }

    /// The most resident memory that it ever had, without its children, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn peak(&self) -> anyhow::Result<u64> {
        memory(self.id(), "VmHWM:")
    }

    /// The size of its program, or of the largest that it or a child of it runs: [`program::size`].
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn program_size(&self) -> anyhow::Result<u64> {
        let programs = self
            .family()
            .into_iter()
            .map(|process| format!("/proc/{process}/exe"));
        let sizes = programs.map(|program| program::size(Path::new(&program)));
        Ok(sizes
            .collect::<anyhow::Result<Vec<_>>>()?
            .into_iter()
            .max()
            .unwrap_or(0))
    }

    /// How much it has said, in bytes.
    ///
    /// # Errors
    /// When its log is gone.
    pub(crate) fn written(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }

    /// What it said last, at most [`TOLD`] bytes.
    pub(crate) fn said(&self) -> String {
        last(&self.log).unwrap_or_else(|error| format!("({} cannot be read: {error})", self.log.display()))
    }

    /// The process and its descendants: a program may start its worker as another one.
    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.id()];
        let mut next = 0;
        while let Some(parent) = family.get(next) {
            let tasks = fs::read_dir(format!("/proc/{parent}/task"));
            let children: Vec<u32> = tasks
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
                .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
                .filter_map(|child| child.parse().ok())
                .collect();
            family.extend(children);
            next += 1;
        }
        family
    }
}

fn spawned(
    mut command: Command,
    log: File,
    spawn: impl FnOnce(&mut Command) -> anyhow::Result<Child>,
) -> anyhow::Result<Child> {
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    spawn(&mut command).with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// CPU time of all threads of a process, also of those that have ended.
fn cpu(process: u32) -> anyhow::Result<Duration> {
    let pid = Pid::from_raw(process.cast_signed());
    let used = ClockId::pid_cpu_clock_id(pid).and_then(clock_gettime);
    Ok(used.context("a program is gone")?.into())
}

/// A line of a process's memory, in bytes.
fn memory(process: u32, name: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("a program is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib: u64 = line
        .context("a program has no memory: it has ended")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kib * 1024)
}

/// The last whole lines of a file, or what there is of a line that is too long.
fn last(file: &Path) -> io::Result<String> {
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(TOLD);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(TOLD).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match text.split_once('\n') {
        Some((_, whole)) if skipped > 0 && !whole.is_empty() => format!("[...]\n{whole}"),
        _ => text.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command, log, |command| Ok(command.spawn()?)).unwrap()
    }

    fn wait(process: &mut Process) {
        while process.ended().unwrap().is_none() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn only_the_last_words_of_a_program_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = shell(
            "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo farewell >&2",
            &directory.path().join("log"),
        );
        wait(&mut process);
        let said = process.said();
        assert!(said.len() <= 4096 + 6, "{} bytes", said.len());
        assert!(
            said.starts_with("[...]\nline ") && said.ends_with("\nline 1999\nfarewell\n"),
            "{said}"
        );
        let mut another = Command::new("echo");
        another.arg("and another");
        process.replace(another, |command| Ok(command.spawn()?)).unwrap();
        wait(&mut process);
        assert!(process.said().ends_with("farewell\nand another\n"));
    }

    #[test]
    fn children_count() {
        let directory = tempfile::tempdir().unwrap();
        // Works until its parent is gone. A shell of which nothing is left to do would become the program.
        let script = "sh -c 'while kill -0 $PPID; do :; done; :' 2>/dev/null & wait; :";
        let process = shell(script, &directory.path().join("log"));
        let alone = memory(process.id(), "VmRSS:").unwrap();
        let (busy, begun) = (Duration::from_millis(50), std::time::Instant::now());
        while process.cpu().unwrap() < busy {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "the child does not count"
            );
            std::thread::yield_now();
        }
        assert!(cpu(process.id()).unwrap() < busy && process.rss().unwrap() > alone);
    }

    #[test]
    fn the_program_that_runs_is_measured() {
        let directory = tempfile::tempdir().unwrap();
        let process = shell("while :; do :; done", &directory.path().join("log"));
        let shell = program::on_path("sh").unwrap();
        assert_eq!(process.program_size().unwrap(), program::size(&shell).unwrap());
    }
}
