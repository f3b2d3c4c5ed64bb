//! A bound on a process's memory: a control group of its own, where this machine lets us make one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

/// The control group; removed when dropped, which is after its process has ended.
pub(super) struct Bound {
    group: PathBuf,
    limit: &'static str,
}

/// Where memory is bounded, by version of control groups: the directory, and the file of the limit.
const PLACES: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ("/sys/fs/cgroup", "memory.max"),
];

impl Bound {
    /// Bounds a process that has just started to so many bytes.
    ///
    /// # Errors
    /// When this machine does not let us.
    pub(super) fn of(process: u32, bytes: u64) -> io::Result<Self> {
        let mut failure = io::Error::from(io::ErrorKind::Unsupported);
        for (place, limit) in PLACES {
            let bound = Self {
                group: Path::new(place).join(format!("weir-bench-{}", process::id())),
                limit,
            };
            match bound.make(process, bytes) {
                Ok(()) => return Ok(bound),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn make(&self, process: u32, bytes: u64) -> io::Result<()> {
        fs::create_dir(&self.group)?;
        fs::write(self.group.join(self.limit), bytes.to_string())?;
        fs::write(self.group.join("cgroup.procs"), process.to_string())
    }

    /// Lets the process have all that it asks for.
    ///
    /// # Errors
    /// When the group is gone.
    pub(super) fn lift(&self) -> io::Result<()> {
        let unbounded = if self.limit == "memory.max" { "max" } else { "-1" };
        fs::write(self.group.join(self.limit), unbounded)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // A group that could not be made is not there.
        let _ = fs::remove_dir(&self.group);
    }
}
