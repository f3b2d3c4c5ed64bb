//! What is left of a demo that was killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Outcome,
    programs::WEIR,
    run::{self, until},
};

const START: Duration = Duration::from_secs(120);
/// The kernel ends a namespace's processes at once, and frees the namespace a little later.
const END: Duration = Duration::from_secs(30);
const READY: &str = "Every pod is ready";
/// A mesh has at least this many processes: two a pod.
const AT_LEAST: usize = 10;

/// A process, which is never another one's: its number and the time it was started.
type Process = (u32, u64);

/// The machine as everybody sees it.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    rules: Option<String>,
}

impl Machine {
    fn look() -> anyhow::Result<Self> {
        let links = fs::read_dir("/sys/class/net")?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<anyhow::Result<_>>()?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        Ok(Self {
            links,
            mounts: mounts.lines().map(str::to_owned).collect(),
            rules: rules(),
        })
    }
}

/// The redirect's rules and all others, where there is a program that tells them. Counters and the time are not rules.
fn rules() -> Option<String> {
    let output = Command::new("iptables-save").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rules = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(" [").next().unwrap_or(line));
    Some(rules.collect::<Vec<_>>().join("\n"))
}

/// Every process: its parent and itself.
fn processes() -> anyhow::Result<BTreeMap<Process, u32>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // proc_pid_stat(5): after the name come the state (3rd), the parent (4th), the start time (22nd).
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or_else(Vec::new, |(_, rest)| rest.split_whitespace().collect());
        if let (Some(parent), Some(started)) = (fields.get(1), fields.get(19)) {
            all.insert((pid, started.parse()?), parent.parse()?);
        }
    }
    Ok(all)
}

/// A process and all that come from it.
fn family(root: u32) -> anyhow::Result<BTreeSet<Process>> {
    let all = processes()?;
    let mut known = BTreeSet::from([root]);
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|((pid, _), parent)| known.contains(*parent) && !known.contains(pid))
            .map(|((pid, _), _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        known.extend(more);
    }
    Ok(all.into_keys().filter(|(pid, _)| known.contains(pid)).collect())
}

/// The namespaces of processes, those of this one left out.
fn namespaces(of: &BTreeSet<Process>) -> BTreeSet<String> {
    const KINDS: [&str; 4] = ["net", "mnt", "pid", "user"];
    let links = |pid: &str| {
        let link = |kind: &&str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        KINDS
            .iter()
            .filter_map(link)
            .map(|link| link.display().to_string())
            .collect::<BTreeSet<_>>()
    };
    let own = links("self");
    of.iter()
        .flat_map(|(pid, _)| links(&pid.to_string()))
        .filter(|namespace| !own.contains(namespace))
        .collect()
}

/// A demo that ends with the test in any case.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

pub(crate) fn after_kill() -> Outcome {
    let scratch = tempfile::tempdir()?;
    let (temporary, manifests) = (scratch.path().join("tmp"), scratch.path().join("manifests"));
    fs::create_dir(&temporary)?;
    let before = Machine::look()?;
    let mut command = run::weir(WEIR);
    command
        .args(["demo", "--dir"])
        .arg(&manifests)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut demo = Demo(command.spawn()?);
    let lines = BufReader::new(demo.0.stdout.take().context("no output")?).lines();
    let (told, ready) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _nobody_listens = told.send(line);
        }
    });
    loop {
        let line = ready.recv_timeout(START).context("the demo does not come up")?;
        if line.starts_with(READY) {
            break;
        }
    }
    let family = family(demo.0.id())?;
    let spaces = namespaces(&family);
    ensure!(
        family.len() >= AT_LEAST && !spaces.is_empty(),
        "{} processes in {} namespaces are no mesh",
        family.len(),
        spaces.len()
    );

    kill(Pid::from_raw(demo.0.id().try_into()?), Signal::SIGKILL)?;
    demo.0.wait()?;
    let mut left = BTreeSet::new();
    let gone = until("the demo's processes to end", END, || {
        let all: BTreeSet<Process> = processes()?.into_keys().collect();
        left = family.intersection(&all).copied().collect();
        let held: BTreeSet<String> = namespaces(&all).intersection(&spaces).cloned().collect();
        Ok(left.is_empty() && held.is_empty())
    });
    gone.with_context(|| format!("processes {left:?} are left"))?;
    let after = Machine::look()?;
    ensure!(before == after, "before: {before:?}\nafter: {after:?}");
    let files: Vec<_> = fs::read_dir(&temporary)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    ensure!(files.is_empty(), "files are left: {files:?}");
    Ok(())
}
