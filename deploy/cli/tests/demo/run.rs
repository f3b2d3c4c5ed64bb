//! Running a program to its end, within bounds.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::programs::WEIR;

/// Longest that a whole `weir demo --check` may take. It needs about half a minute.
const LIMIT: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// What `weir` says where the kernel or a container runtime forbids sandboxes.
const FORBIDDEN: [&str; 3] = [
    "cannot create Linux namespaces",
    "cannot mount /proc",
    "cannot map user ids",
];

/// What a program said, and how it ended.
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// `weir`, as if it had been started by hand and not by cargo.
pub(crate) fn weir(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env_remove("CARGO").env_remove("CARGO_MANIFEST_DIR");
    command
}

/// Runs to the end.
pub(crate) fn to_end(mut command: Command) -> anyhow::Result<Ran> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _whatever_came = stream.map(|mut stream| stream.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(stdout.map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    let stderr = read(stderr.map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    let status = ended(&mut child);
    let text = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    let status = status.with_context(|| format!("{stdout}\n{stderr}"))?;
    Ok(Ran {
        status,
        stdout,
        stderr,
    })
}

fn ended(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let mut status = None;
    let waited = until("the program to end", LIMIT, || {
        status = child.try_wait()?;
        Ok(status.is_some())
    });
    if waited.is_err() {
        child.kill()?;
        child.wait()?;
    }
    waited?;
    status.context("no status")
}

/// Looks until it is so.
pub(crate) fn until(
    what: &str,
    limit: Duration,
    mut so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !so()? {
        if begun.elapsed() > limit {
            bail!("waited {limit:?} for {what}");
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Whether the machine lets this user have a sandbox.
pub(crate) fn possible() -> Result<(), String> {
    allowed(weir(WEIR))
}

/// Whether the machine lets a command have a sandbox, found out by a demo that ends for another reason at once.
pub(crate) fn allowed(mut command: Command) -> Result<(), String> {
    command.args(["demo", "--check", "--dir", "/proc/none"]);
    let ran = to_end(command).map_err(|error| format!("{error:#}"))?;
    match FORBIDDEN.iter().any(|forbidden| ran.stderr.contains(forbidden)) {
        true => Err(ran.stderr.trim().to_owned()),
        false => Ok(()),
    }
}
