//! A weir-controller process: started, watched, measured.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{bail, ensure};
use tokio::time::{Instant, sleep};

use super::bound::Bound;
use crate::{
    page,
    pin::{self, Cores},
    process::Process,
};

/// How long a controller may take to read the mesh.
const START: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

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
    process: Process,
    pub(crate) xds: SocketAddr,
    health: SocketAddr,
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
        let command = command(start.program, &arguments, &start.environment);
        let process = Process::start(command, &start.log, |command| spawn(command, start.cores))?;
        Ok(Self {
            program: start.program.to_owned(),
            arguments,
            environment: start.environment,
            cores: start.cores,
            memory: start.memory,
            xds,
            health,
            bound: bound(&process, start.memory),
            process,
        })
    }

    /// Kills it, and starts another one in its place, which may not be ready yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn replace(&mut self) -> anyhow::Result<()> {
        self.process.end();
        // One group of a name at a time, and none that has processes goes.
        self.bound = None;
        let command = command(&self.program, &self.arguments, &self.environment);
        let cores = self.cores;
        self.process.replace(command, |command| spawn(command, cores))?;
        self.bound = bound(&self.process, self.memory);
        Ok(())
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
            match page::get(self.health, "/health/ready").await {
                Ok((200, _)) => return Ok(()),
                _ if Instant::now() < until => sleep(LOOK_AGAIN).await,
                other => bail!("the controller is not ready after {START:?}: {other:?}"),
            }
        }
    }

    /// # Errors
    /// When it has ended, with the last that it wrote.
    pub(crate) fn alive(&mut self) -> anyhow::Result<()> {
        match self.process.ended()? {
            None => Ok(()),
            Some(status) => bail!(
                "the controller ended ({status}); it said:\n{}",
                self.process.said()
            ),
        }
    }

    /// # Errors
    /// When it is gone.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let process = &self.process;
        Ok(Usage {
            cpu: process.cpu()?.as_secs_f64(),
            memory: process.rss()?,
            peak: process.peak()?,
        })
    }

    /// The sum of a metric over its labels; 0 when it has none yet.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (status, text) = page::get(self.health, "/metrics").await?;
        ensure!(status == 200, "the controller's metrics answer {status}");
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with(['{', ' '])).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        Ok(values.sum())
    }
}

fn command(program: &Path, arguments: &[OsString], environment: &[(&'static str, OsString)]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

fn spawn(command: &mut Command, cores: Cores) -> anyhow::Result<Child> {
    Ok(pin::on(cores.proxies, || command.spawn())??)
}

fn bound(process: &Process, memory: u64) -> Option<Bound> {
    Bound::of(process.id(), memory)
        .inspect_err(|error| eprintln!("the controller's memory is measured, not bounded: {error}"))
        .ok()
}
