//! The control groups of a node: one tree of its own in each hierarchy (cgroup v1) or in the one (v2).
//!
//! They are all that a killed node leaves behind, as empty directories. The starting process goes into a group of the
//! tree itself, so that a tree whose group is empty belongs to nobody any more; the next start removes it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const ROOT: &str = "/sys/fs/cgroup";
const PREFIX: &str = "weir-node-";
/// The group of the harness and of the node's own programs; those of pods are beside it.
const OWN: &str = "own";
/// How long killed processes may take to leave their groups.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node's control groups; [`Cgroups::end`] kills what is in them.
#[derive(Debug)]
pub(crate) struct Cgroups {
    name: String,
    hierarchies: Vec<PathBuf>,
    /// The hierarchy that tells who lives.
    marker: PathBuf,
    /// Where this process was before.
    before: PathBuf,
    ended: bool,
}

impl Cgroups {
    /// Removes what dead nodes left and makes a tree for this one, in which this process is from then on.
    pub(crate) fn create() -> anyhow::Result<Self> {
        let hierarchies = hierarchies(Path::new(ROOT))?;
        let marker = hierarchies.iter().find(|path| path.ends_with("pids"));
        let marker = marker
            .or(hierarchies.first())
            .context("no control groups")?
            .clone();
        let before = marker.join(own_group(&marker)?);
        for name in trees(&hierarchies) {
            // A directory with a process in it, of whatever process namespace, cannot be removed.
            if !matches!(fs::remove_dir(marker.join(&name).join(OWN)), Err(error) if busy(&error)) {
                remove(&hierarchies, &name, Duration::ZERO);
            }
        }
        let mut cgroups = Self {
            name: format!("{PREFIX}{}", std::process::id()),
            hierarchies,
            marker,
            before,
            ended: false,
        };
        for attempt in 0u32.. {
            match cgroups.make() {
                Ok(()) => break,
                // Another start saw the group before this process was in it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < 3 => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 30 => {
                    cgroups.name = format!("{PREFIX}{}-{attempt}", std::process::id());
                }
                Err(error) => {
                    bail!("cannot make control groups below {ROOT} ({error}): a node needs them writable")
                }
            }
        }
        Ok(cgroups)
    }

    /// The tree's path as the kubelet's `cgroupRoot` has it.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.name)
    }

    fn make(&self) -> io::Result<()> {
        fs::create_dir(self.marker.join(&self.name))?;
        for hierarchy in &self.hierarchies {
            let tree = hierarchy.join(&self.name);
            fs::create_dir_all(&tree)?;
            // A cpuset takes no process before it has processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if hierarchy.ends_with("cpuset") {
                    fs::write(tree.join(file), fs::read(hierarchy.join(file))?)?;
                }
            }
        }
        let own = self.marker.join(&self.name).join(OWN);
        fs::create_dir(&own)?;
        fs::write(own.join("cgroup.procs"), std::process::id().to_string())
    }

    /// Kills every process of the node but this one, and removes the groups.
    pub(crate) fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let tree = self.marker.join(&self.name);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let others = processes(&tree);
            if others.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in others {
                let _gone_already = kill(pid, Signal::SIGKILL);
            }
            sleep(Duration::from_millis(10));
        }
        let _left_to_the_next_start =
            fs::write(self.before.join("cgroup.procs"), std::process::id().to_string());
        remove(&self.hierarchies, &self.name, PATIENCE);
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.end();
    }
}

/// Mount points of cgroup v1, or the one of v2.
fn hierarchies(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let entries = fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        // Links (cpu,cpuacct) lead to a directory that is in the list by its own name.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists())
        .collect();
    found.sort();
    Ok(found)
}

/// The group that this process is in, relative to the hierarchy.
fn own_group(hierarchy: &Path) -> anyhow::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let controller = hierarchy
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(group_of(&text, controller.as_deref().unwrap_or_default()).unwrap_or_default())
}

/// Lines are `number:controllers:/path`; the v2 hierarchy has no controllers.
fn group_of(text: &str, controller: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = controllers.is_empty() && controller == "cgroup"
            || controllers.split(',').any(|name| name == controller);
        ours.then(|| PathBuf::from(path.trim_start_matches('/')))
    })
}

/// Names of the trees that nodes made.
fn trees(hierarchies: &[PathBuf]) -> Vec<String> {
    let entries = hierarchies
        .iter()
        .filter_map(|path| fs::read_dir(path).ok())
        .flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(PREFIX)).collect();
    found.sort();
    found.dedup();
    found
}

/// Processes in a tree, this one left out.
fn processes(tree: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    walk(tree, &mut |group| {
        let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        found.extend(
            text.lines()
                .filter_map(|line| line.parse().ok())
                .map(Pid::from_raw),
        );
    });
    found.retain(|pid| *pid != Pid::this() && pid.as_raw() > 0);
    found
}

/// Removes a tree in every hierarchy, as far as it is empty; tries again for a while.
fn remove(hierarchies: &[PathBuf], name: &str, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let mut left = false;
        for tree in hierarchies.iter().map(|hierarchy| hierarchy.join(name)) {
            walk(&tree, &mut |group| {
                let removed = fs::remove_dir(group);
                left |= removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound);
            });
        }
        if !left || Instant::now() > deadline {
            return;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Visits the groups of a tree, the deepest first.
fn walk(group: &Path, visit: &mut impl FnMut(&Path)) {
    let entries = fs::read_dir(group).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        walk(&entry.path(), visit);
    }
    if group.is_dir() {
        visit(group);
    }
}

fn busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_either_version() {
        let v1 = "11:pids:/a/b\n4:cpu,cpuacct:/c\n0::/unified\n";
        assert_eq!(group_of(v1, "pids"), Some("a/b".into()));
        assert_eq!(group_of(v1, "cpuacct"), Some("c".into()));
        assert_eq!(group_of(v1, "memory"), None);
        assert_eq!(
            group_of("0::/user.slice/x\n", "cgroup"),
            Some("user.slice/x".into())
        );
    }
}
