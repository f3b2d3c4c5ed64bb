//! What is compared: nothing in between, or a pair of sidecars of one make.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use weir_testbed::{Pods, Sandbox};

use super::{
    make::{Make, Place},
    pods::{Pair, Side},
    scenarios::Protocol,
};
use crate::{
    application::Application,
    bootstrap::{Between, Identities},
    pin::Cores,
    process::Process,
};

/// How long a pair may take from its start to the first answer.
const STARTING: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// One way from client to server.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Name in reports.
    pub(crate) name: String,
    /// The sidecars; `None`: none.
    pub(crate) make: Option<Make>,
}

/// Where everything is measured.
pub(crate) struct Stage {
    pub(crate) pods: Pods,
    pub(crate) sandbox: Sandbox,
    /// Congestion control of the pods' connections.
    pub(crate) congestion: String,
    pub(crate) cores: Cores,
}

/// A way that is open.
pub(crate) struct Running {
    /// Where clients dial.
    pub(crate) target: SocketAddr,
    /// From the start of the sidecars to the first answer.
    pub(crate) started: Duration,
    // In the order in which they have to go: what runs in the pods before the pods.
    sidecars: Vec<Process>,
    _application: Application,
    pods: Pair,
    _directory: Option<TempDir>,
    cores: Cores,
}

impl Way {
    /// Whether what stands in between is sidecars, with a policy and a log.
    pub(crate) fn has_sidecars(&self) -> bool {
        !matches!(self.make, None | Some(Make::Forward(_)))
    }

    /// Whether it is another way than the one of the same make: the version of HTTP between sidecars is a choice for
    /// HTTP/1.1 only, and of plain bytes nothing is left to leave out.
    pub(crate) fn is_of_its_own(&self, protocol: Protocol) -> bool {
        if matches!(self.make, Some(Make::Forward(_))) {
            return protocol != Protocol::TcpPlain;
        }
        let is_variant = matches!(
            self.make,
            Some(
                Make::Weir(_, Between::Http2)
                    | Make::Envoy(_, Between::Http1)
                    | Make::Haproxy(_, Between::Http1)
            )
        );
        protocol == Protocol::Http1 || !is_variant
    }

    /// Opens the way in pods of its own, and waits until a request gets through.
    ///
    /// # Errors
    /// When a sidecar does not start or no request gets through; with what the sidecars said.
    pub(crate) fn start(
        &self,
        stage: &mut Stage,
        protocol: Protocol,
        access_log: bool,
    ) -> anyhow::Result<Running> {
        let identities = Identities::new()?;
        let mut running = self.launch(stage, protocol, access_log, &identities)?;
        let begin = Instant::now();
        loop {
            let error = match running.try_once(protocol) {
                Ok(()) => break,
                Err(error) => error,
            };
            let ended = running.ended()?;
            if ended || begin.elapsed() > STARTING {
                let said: String = running.sidecars.iter().map(Process::said).collect();
                let name = &self.name;
                return Err(error.context(format!("{name} does not work; its sidecars said:\n{said}")));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        running.started = begin.elapsed();
        Ok(running)
    }

    /// Opens the way for a client that is not allowed, and makes sure that nothing gets through: a pair that does
    /// not enforce the policy is not worth comparing.
    ///
    /// # Errors
    /// When a request gets through, or the sidecars do not start.
    pub(crate) fn check_policy(&self, stage: &mut Stage, protocol: Protocol) -> anyhow::Result<()> {
        if !self.has_sidecars() || protocol == Protocol::TcpPlain {
            return Ok(());
        }
        drop(
            self.start(stage, protocol, false)
                .context("with the identity that is let in")?,
        );
        let identities = Identities::new()?.as_stranger();
        let mut running = self.launch(stage, protocol, false, &identities)?;
        // As long as the way took to open for the client that is allowed would do; a refusal looks like a sidecar
        // that is not up, so it has to be seen for a while.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            if running.try_once(protocol).is_ok() {
                bail!(
                    "{} lets a client through that the policy does not name",
                    self.name
                );
            }
            if running.ended()? {
                bail!("a sidecar of {} ended when a stranger called", self.name);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn launch(
        &self,
        stage: &mut Stage,
        protocol: Protocol,
        access_log: bool,
        identities: &Identities,
    ) -> anyhow::Result<Running> {
        let cores = stage.cores;
        let pods = Pair::new(
            &mut stage.pods,
            stage.sandbox,
            &stage.congestion,
            self.make.is_some(),
        )?;
        let target = pods.target()?;
        let application = Application::start(pods.listen()?, protocol.served(), cores.load)?;
        let mut sidecars = Vec::new();
        let mut directory = None;
        if let Some(make) = &self.make {
            // In memory, and gone with the sandbox.
            let own = tempfile::tempdir_in(stage.sandbox.scratch())?;
            for side in [Side::Server, Side::Client] {
                let place = Place {
                    side,
                    protocol,
                    access_log,
                    target,
                    identities,
                    directory: own.path(),
                    single_uid: stage.sandbox.single_uid(),
                };
                let command = make.command(&place)?;
                let log = own.path().join(format!("{side:?}.log"));
                let start =
                    |command: &mut Command| Ok(pods.inside(side, cores.proxies, || command.spawn())??);
                sidecars.push(Process::start(command, &log, start)?);
            }
            directory = Some(own);
        }
        Ok(Running {
            target,
            started: Duration::ZERO,
            sidecars,
            _application: application,
            pods,
            _directory: directory,
            cores,
        })
    }
}

impl Running {
    /// Runs `work` as the client, on the core of the load.
    ///
    /// # Errors
    /// When the pod cannot be entered, or with the error of the work.
    pub(crate) fn as_client<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        self.pods.as_client(self.cores.load, work)?
    }

    /// CPU time that the sidecars have used so far.
    ///
    /// # Errors
    /// When a sidecar is gone.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.sidecars.iter().map(Process::cpu).sum()
    }

    /// Resident memory of one sidecar, the mean of the two, in bytes; `None` without sidecars.
    ///
    /// # Errors
    /// When a sidecar is gone.
    pub(crate) fn rss(&self) -> anyhow::Result<Option<u64>> {
        let total: u64 = self
            .sidecars
            .iter()
            .map(Process::rss)
            .sum::<anyhow::Result<_>>()?;
        Ok(total.checked_div(self.sidecars.len() as u64))
    }

    /// The size of a sidecar's program, in bytes; `None` without sidecars.
    ///
    /// # Errors
    /// When a sidecar is gone.
    pub(crate) fn program_size(&self) -> anyhow::Result<Option<u64>> {
        self.sidecars.first().map(Process::program_size).transpose()
    }

    /// Makes sure that each sidecar has written something: its access log goes to its stdout.
    ///
    /// # Errors
    /// When one has not.
    pub(crate) fn check_logs(&self) -> anyhow::Result<()> {
        for sidecar in &self.sidecars {
            ensure!(sidecar.written()? > 0, "a sidecar wrote no access log");
        }
        Ok(())
    }

    fn try_once(&self, protocol: Protocol) -> anyhow::Result<()> {
        self.as_client(|| super::load::once(self.target, protocol))
    }

    fn ended(&mut self) -> anyhow::Result<bool> {
        for sidecar in &mut self.sidecars {
            if sidecar.ended()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
