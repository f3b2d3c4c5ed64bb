//! A weir-controller process: started, watched, measured.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

use super::bound::Bound;
use crate::pin::{self, Cores};

/// How long a controller may take to read the mesh.
const START: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Of the clock that the kernel counts CPU time with.
const TICKS_PER_SECOND: f64 = 100.0;

/// How to start one.
pub(crate) struct Start<'a> {
    pub(crate) program: &'a Path,
    /// Where its objects come from.
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// What it writes goes here.
    pub(crate) log: PathBuf,
    pub(crate) cores: Cores,
    /// The most memory that it may have, in bytes.
    pub(crate) memory: u64,
}

/// One that runs.
pub(crate) struct Controller {
    program: PathBuf,
    /// Its addresses among them.
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    cores: Cores,
    memory: u64,
    child: Child,
    pub(crate) xds: SocketAddr,
    health: SocketAddr,
    log: PathBuf,
    /// `None`: this machine does not let us bound it.
    bound: Option<Bound>,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU seconds.
    pub(crate) cpu: f64,
    /// Resident bytes now, and the most there were.
    pub(crate) memory: u64,
    pub(crate) peak: u64,
}

impl Controller {
    /// Starts one; it may not be ready yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(start: Start<'_>) -> anyhow::Result<Self> {
        let [xds, health, injector, validator] =
            weir_testbed::free_ports()?.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let mut arguments = start.arguments;
        arguments.extend(["--log-level", "warn"].map(OsString::from));
        let flags = [
            "--xds-address",
            "--health-address",
            "--injector-address",
            "--validator-address",
        ];
        for (flag, address) in flags.into_iter().zip([xds, health, injector, validator]) {
            arguments.extend([flag.to_owned(), address.to_string()].map(OsString::from));
        }
        fs::File::create(&start.log)?;
        let child = spawn(
            start.program,
            &arguments,
            &start.environment,
            &start.log,
            start.cores,
        )?;
        Ok(Self {
            program: start.program.to_owned(),
            arguments,
            environment: start.environment,
            cores: start.cores,
            memory: start.memory,
            xds,
            health,
            log: start.log,
            bound: bound(&child, start.memory),
            child,
        })
    }

    /// Kills it, and starts another one in its place, which may not be ready yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn replace(&mut self) -> anyhow::Result<()> {
        self.end();
        // One group of a name at a time.
        self.bound = None;
        self.child = spawn(
            &self.program,
            &self.arguments,
            &self.environment,
            &self.log,
            self.cores,
        )?;
        self.bound = bound(&self.child, self.memory);
        Ok(())
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn is_bounded(&self) -> bool {
        self.bound.is_some()
    }

    /// Lets it have all the memory that it asks for.
    ///
    /// # Errors
    /// When its control group is gone.
    pub(crate) fn unbind(&self) -> anyhow::Result<()> {
        Ok(self.bound.as_ref().map_or(Ok(()), Bound::lift)?)
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// When it ends, or takes too long.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + START;
        loop {
            self.alive()?;
            match self.get("/health/ready").await {
                Ok((200, _)) => return Ok(()),
                _ if Instant::now() < until => sleep(LOOK_AGAIN).await,
                other => bail!("the controller is not ready after {START:?}: {other:?}"),
            }
        }
    }

    /// # Errors
    /// When it has ended, with the last that it wrote.
    pub(crate) fn alive(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        let Some(status) = ended else { return Ok(()) };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        bail!("the controller ended ({status}); its last words, newest first: {last:?}")
    }

    /// # Errors
    /// When it is gone.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let read = |name| {
            let path = format!("/proc/{}/{name}", self.child.id());
            fs::read_to_string(path).context("the controller is gone")
        };
        let stat = read("stat")?;
        // The fields after the name, which is in parentheses; user and system time are the 14th and 15th of all.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let mut ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        let mut tick = || ticks.next().context("no CPU time in stat");
        let cpu = (tick()?? + tick()??) / TICKS_PER_SECOND;
        let status = read("status")?;
        let size = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .context("no size in status")?;
            anyhow::Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok(Usage {
            cpu,
            memory: size("VmRSS:")?,
            peak: size("VmHWM:")?,
        })
    }

    /// The sum of a metric over its labels; 0 when it has none yet.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (status, text) = self.get("/metrics").await?;
        ensure!(status == 200, "the controller's metrics answer {status}");
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with(['{', ' '])).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        Ok(values.sum())
    }

    async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.health).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: controller\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let status = text.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, text))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(
    program: &Path,
    arguments: &[OsString],
    environment: &[(&'static str, OsString)],
    log: &Path,
    cores: Cores,
) -> anyhow::Result<Child> {
    let log = fs::File::options().append(true).open(log)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // A process inherits the core of the thread that starts it.
    let started = thread::spawn(move || {
        pin::this_thread(cores.proxies);
        command.spawn()
    });
    let Ok(started) = started.join() else {
        bail!("cannot start {}", program.display());
    };
    started.with_context(|| format!("cannot start {}", program.display()))
}

fn bound(child: &Child, memory: u64) -> Option<Bound> {
    Bound::of(child.id(), memory)
        .inspect_err(|error| eprintln!("the controller's memory is measured, not bounded: {error}"))
        .ok()
}
