//! User id maps of the sandbox. They are written from outside by a small process, the mapper, because
//! only a process outside may map more than one id.
//!
//! Root keeps all its ids one to one. Another user becomes root inside, with its subordinate ids
//! (`/etc/subuid`, through `newuidmap`) as ids from 1 on, or else alone.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::unistd::{User, getegid, geteuid};

use super::{EnterError, MAPPER};

/// Handle on the mapper, started before the caller leaves for its namespaces.
pub(super) struct Mapper(Child);

impl Mapper {
    pub(super) fn spawn() -> Result<Self, EnterError> {
        Command::new("/proc/self/exe")
            .arg0(MAPPER)
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map(Self)
            .map_err(|source| EnterError::Spawn {
                stage: "id mapper",
                source,
            })
    }

    /// Has this process's ids mapped; which ids exist then: `full` or `single`.
    pub(super) fn map(&mut self) -> Result<&'static str, EnterError> {
        let broken = |error: std::io::Error| EnterError::Map(error.to_string());
        if let Some(mut stdin) = self.0.stdin.take() {
            stdin.write_all(b"m").map_err(broken)?;
        }
        let mut answer = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut answer).map_err(broken)?;
        }
        let _status = self.0.wait();
        match answer.trim() {
            "full" => Ok("full"),
            "single" => Ok("single"),
            other => Err(EnterError::Map(other.to_owned())),
        }
    }

    /// Ends the mapper without mapping.
    pub(super) fn dismiss(mut self) {
        drop(self.0.stdin.take());
        let _status = self.0.wait();
    }
}

/// The mapper's `main`: waits for the go, maps, and says on stdout which ids exist.
pub(super) fn run_mapper() -> i32 {
    let mut go = [0u8; 1];
    if std::io::stdin().read_exact(&mut go).is_err() {
        return 0;
    }
    let Some(pid) = std::env::args().nth(1) else {
        return 2;
    };
    match map(&pid) {
        Ok(ids) => println!("{ids}"),
        Err(error) => println!("{error}"),
    }
    0
}

fn map(pid: &str) -> Result<&'static str, std::io::Error> {
    if geteuid().is_root() {
        let own = |file: &str| -> std::io::Result<String> {
            Ok(identity(&std::fs::read_to_string(format!("/proc/self/{file}"))?))
        };
        let all = own("uid_map").and_then(|uids| {
            std::fs::write(format!("/proc/{pid}/uid_map"), uids)?;
            std::fs::write(format!("/proc/{pid}/gid_map"), own("gid_map")?)
        });
        if all.is_ok() {
            return Ok("full");
        }
    } else if subordinate(pid)? {
        return Ok("full");
    }
    std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("0 {} 1", geteuid()))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("0 {} 1", getegid()))?;
    Ok("single")
}

/// Maps through `newuidmap` and `newgidmap`; false when there is nothing to map with.
fn subordinate(pid: &str) -> std::io::Result<bool> {
    let user = User::from_uid(geteuid())
        .ok()
        .flatten()
        .map(|user| user.name)
        .unwrap_or_default();
    let (uid, gid) = (geteuid().to_string(), getegid().to_string());
    let ranges = |file: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        range(&text, &user, &uid)
    };
    let (Some(subuid), Some(subgid)) = (ranges("/etc/subuid"), ranges("/etc/subgid")) else {
        return Ok(false);
    };
    let run = |program: &str, own: &str, (start, count): (u32, u32)| {
        Command::new(program)
            .args([pid, "0", own, "1", "1", &start.to_string(), &count.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !run("newuidmap", &uid, subuid) {
        return Ok(false);
    }
    // A map cannot be taken back: from here on it is both or neither.
    if run("newgidmap", &gid, subgid) {
        Ok(true)
    } else {
        Err(std::io::Error::other(
            "newuidmap worked and newgidmap did not: install it (package uidmap), or remove the user from /etc/subuid",
        ))
    }
}

/// First range of `user` (by name or id) in a subuid(5) file that is long enough to hold ids of services.
fn range(text: &str, user: &str, uid: &str) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut parts = line.trim().split(':');
        let owner = parts.next()?;
        let (start, count) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        ((owner == user || owner == uid) && count >= 65_534).then_some((start, count))
    })
}

/// A map of every id in `map` (uid_map format) to itself.
fn identity(map: &str) -> String {
    map.lines().fold(String::new(), |mut out, line| {
        let mut parts = line.split_whitespace();
        if let (Some(inside), Some(_), Some(count)) = (parts.next(), parts.next(), parts.next()) {
            out.push_str(&format!("{inside} {inside} {count}\n"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_id() {
        let text = "root:1:65536\nann:100000:65536\n1001:200000:65536\nbob:5:10\n";
        assert_eq!(range(text, "ann", "1000"), Some((100_000, 65_536)));
        assert_eq!(range(text, "", "1001"), Some((200_000, 65_536)));
        assert_eq!(range(text, "bob", "7"), None);
    }

    #[test]
    fn root_keeps_the_ids_it_has() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 100000 1000\n1000 7 1\n"), "0 0 1000\n1000 1000 1\n");
    }
}
