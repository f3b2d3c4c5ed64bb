//! A sidecar's process: how it is started, and what it costs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;

use super::pods::{Pair, Side};

/// Runs until it is dropped. Its children in turn end with the sandbox.
pub(crate) struct Sidecar {
    child: Child,
    log: PathBuf,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sidecar {
    /// Starts `command` in a pod; what it says goes to `<directory>/<side>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(
        pods: &Pair,
        side: Side,
        core: Option<usize>,
        mut command: Command,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let log = directory.join(format!("{side:?}.log"));
        let written = fs::File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(written.try_clone()?)
            .stderr(written);
        let program = command.get_program().to_owned();
        let child = pods.inside(side, core, || command.spawn())?;
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not know it.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// CPU time that it has used so far, with all its threads and children.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let times = self.family().into_iter().map(cpu_of);
        times
            .sum::<anyhow::Result<Duration>>()
            .context("a sidecar is gone")
    }

    /// Resident memory, with that of its children, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn rss(&self) -> anyhow::Result<u64> {
        let sizes = self.family().into_iter().map(rss_of);
        sizes.sum::<anyhow::Result<u64>>().context("a sidecar is gone")
    }

    /// What it said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process and its descendants: a program may start its worker as another one.
    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.child.id()];
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

/// CPU time of all threads of a process.
///
/// # Errors
/// When it is gone.
pub(crate) fn cpu_of(process: u32) -> anyhow::Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while the directory is read.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let nanos = text.split_whitespace().next().map(str::parse::<u64>);
        total += nanos.context("no CPU time in schedstat")??;
    }
    Ok(Duration::from_nanos(total))
}

/// Resident bytes of a process.
///
/// # Errors
/// When it is gone.
pub(crate) fn rss_of(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .context("no memory")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kib * 1024)
}
