//! Finds the iptables programs that work here, and runs them.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Saved, apply_text, cleanup_text};
use crate::rules::{Family, RuleSet};

/// Stands in for `/run/xtables.lock`: the network namespace itself can be locked, and is just what needs locking.
const NAMESPACE_LOCK: &str = "/proc/self/ns/net";

/// Which of the kernel's two packet filters a program speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `nf_tables`.
    Nft,
    /// `x_tables`.
    Legacy,
}

/// Why iptables could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be started.
    #[error("cannot run {program}: {source}; install iptables or choose --backend nftables")]
    Start {
        /// The program's name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program failed.
    #[error("{program} failed ({status}): {message}{hint}")]
    Failed {
        /// The program's name.
        program: String,
        /// Its exit status.
        status: String,
        /// What it said, on one line.
        message: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// No program of the wanted variant is on the `PATH`.
    #[error("no iptables-restore for {0} on the PATH; install iptables or choose --backend nftables")]
    Absent(&'static str),
}

/// An installed family of programs: `<prefix>-restore` and `<prefix>-save`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    variant: Variant,
    /// What follows `iptables` and `ip6tables` in the programs' names: `-nft`, `-legacy` or nothing.
    infix: &'static str,
}

/// Finds a program that can read the nat table of this network namespace.
///
/// With `wanted` none, the variant whose tables are in use wins, then nf_tables.
///
/// # Errors
/// Why the best candidate does not work; [`Error::Absent`] when there is none.
pub fn detect(wanted: Option<Variant>) -> Result<Program, Error> {
    let mut candidates = candidates();
    if let Some(variant) = wanted {
        candidates.retain(|program| program.variant == variant);
    }
    if legacy_in_use() {
        candidates.sort_by_key(|program| program.variant == Variant::Nft);
    } else {
        candidates.sort_by_key(|program| program.variant == Variant::Legacy);
    }
    let mut failure = None;
    for program in candidates {
        match program.saved(Family::V4) {
            Ok(_) => return Ok(program),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or(Error::Absent(match wanted {
        Some(Variant::Nft) => "nf_tables",
        Some(Variant::Legacy) => "legacy tables",
        None => "either kind of tables",
    })))
}

/// Whether any variant is on the `PATH`, working or not.
pub fn installed() -> bool {
    !candidates().is_empty()
}

/// Every variant that works here and whose tables may hold rules.
pub fn detect_all() -> Vec<Program> {
    let legacy = legacy_in_use();
    let worth = |program: &Program| program.variant == Variant::Nft || legacy;
    candidates()
        .into_iter()
        .filter(worth)
        .filter(|program| program.saved(Family::V4).is_ok())
        .collect()
}

fn candidates() -> Vec<Program> {
    let named = [("-nft", Variant::Nft), ("-legacy", Variant::Legacy)];
    let mut found: Vec<Program> = named
        .into_iter()
        .filter(|(infix, _)| on_path(&format!("iptables{infix}-restore")).is_some())
        .map(|(infix, variant)| Program { variant, infix })
        .collect();
    if let Some(variant) = plain_variant()
        && found.iter().all(|program| program.variant != variant)
    {
        found.push(Program { variant, infix: "" });
    }
    found
}

/// The variant of plain `iptables-restore`; versions before 1.8 name none and are legacy.
fn plain_variant() -> Option<Variant> {
    on_path("iptables-restore")?;
    let output = Command::new("iptables-restore")
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(if version.contains("nf_tables") {
        Variant::Nft
    } else {
        Variant::Legacy
    })
}

/// Whether legacy iptables holds a nat table here. Unreadable counts as no: reading it by program would create it.
fn legacy_in_use() -> bool {
    std::fs::read_to_string("/proc/net/ip_tables_names")
        .is_ok_and(|names| names.lines().any(|name| name == "nat"))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

impl Program {
    /// The packet filter it speaks to.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The full name of a program, such as `ip6tables-nft-restore`.
    fn name(&self, family: Family, verb: &str) -> String {
        let tool = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        format!("{tool}{}-{verb}", self.infix)
    }

    /// The name of the program that applies rules of `family`.
    pub fn restore_name(&self, family: Family) -> String {
        self.name(family, "restore")
    }

    /// What of ours is in force.
    ///
    /// # Errors
    /// The program cannot be run, or the kernel refuses it.
    pub fn saved(&self, family: Family) -> Result<Saved, Error> {
        let output = run(&self.name(family, "save"), &["-t", "nat"], None)?;
        Ok(Saved::parse(&output))
    }

    /// Replaces our rules of one family by `set`, all or nothing.
    ///
    /// # Errors
    /// As [`Program::saved`]; nothing has changed then.
    pub fn apply(&self, set: &RuleSet) -> Result<(), Error> {
        let text = apply_text(set, &self.saved(set.family)?);
        self.restore(set.family, &text)
    }

    /// Removes whatever is ours from one family; returns whether there was anything.
    ///
    /// # Errors
    /// As [`Program::saved`]; nothing has changed then.
    pub fn cleanup(&self, family: Family) -> Result<bool, Error> {
        match cleanup_text(&self.saved(family)?) {
            Some(text) => self.restore(family, &text).map(|()| true),
            None => Ok(false),
        }
    }

    fn restore(&self, family: Family, text: &str) -> Result<(), Error> {
        run(&self.restore_name(family), &["--noflush", "-w", "10"], Some(text)).map(drop)
    }
}

/// Runs a program to its end and returns its standard output.
fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, Error> {
    let start = |source| Error::Start {
        program: program.to_owned(),
        source,
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    if let Some(lock) = lock_file() {
        command.env("XTABLES_LOCKFILE", lock);
    }
    let mut child = command.spawn().map_err(start)?;
    if let (Some(mut stdin), Some(text)) = (child.stdin.take(), input) {
        // A program that refuses its arguments closes the pipe; its own message says more than EPIPE.
        match stdin.write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(start(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = one_line(&String::from_utf8_lossy(&output.stderr));
    let hint = hint(&message);
    Err(Error::Failed {
        program: program.to_owned(),
        status: output.status.to_string(),
        message,
        hint,
    })
}

/// The lock file for legacy iptables when its usual place is not writable; `None` leaves the default.
fn lock_file() -> Option<&'static str> {
    let usual = OpenOptions::new()
        .create(true)
        .append(true)
        .open("/run/xtables.lock")
        .is_ok();
    (!usual && std::env::var_os("XTABLES_LOCKFILE").is_none()).then_some(NAMESPACE_LOCK)
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

fn hint(message: &str) -> &'static str {
    if message.contains("lock file") {
        "; set XTABLES_LOCKFILE to a file that this user can write"
    } else if message.contains("Permission denied") || message.contains("Operation not permitted") {
        "; the init container needs the NET_ADMIN capability"
    } else if message.contains("does not exist") || message.contains("No chain/target/match") {
        "; the node's kernel lacks netfilter nat (load iptable_nat, xt_REDIRECT, xt_owner) or use --backend nftables"
    } else {
        ""
    }
}
