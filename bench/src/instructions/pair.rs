//! A pair of weir-proxy, mostly under callgrind, between this program's client and its applications.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use super::{
    Figures,
    callgrind::Profiled,
    load::{Client, Kind},
};
use crate::{
    application::Application,
    bootstrap::{self, Between, Identities},
    peers,
};

/// How long a pair may take from its start to the first answer; under valgrind all is slow.
const STARTING: Duration = Duration::from_secs(120);

/// A pair that serves.
pub(super) struct Pair {
    /// Where the client connects.
    pub(super) target: SocketAddr,
    sidecars: Vec<Profiled>,
    _application: Application,
    directory: TempDir,
}

impl Pair {
    /// Starts it, under valgrind if `counted`, and waits until a request gets through.
    ///
    /// # Errors
    /// When there is no valgrind where it is needed, or no request gets through; with what the sidecars said.
    pub(super) fn start(weir: &Path, kind: Kind, concurrency: u32, counted: bool) -> anyhow::Result<Self> {
        // As Weir's control plane has it.
        let between = Between::AsClient;
        let local = match kind {
            Kind::Grpc => Between::Http2,
            Kind::Http1 | Kind::Echo | Kind::Connect => Between::Http1,
        };
        let application = Application::local(kind.served(concurrency))?;
        let identities = Identities::new()?;
        let at = peers::addresses()?;
        let directory = tempfile::tempdir()?;
        let mut sidecars = Vec::new();
        for (name, configuration) in [
            (
                "inbound",
                bootstrap::inbound(&identities, &at, between, application.address(), local),
            ),
            ("outbound", bootstrap::outbound(&identities, &at, between)),
        ] {
            let path = directory.path().join(format!("{name}.json"));
            fs::write(&path, serde_json::to_vec_pretty(&configuration)?)?;
            let path = path
                .to_str()
                .context("the temporary directory's name is not text")?;
            let arguments = [
                "-c",
                path,
                "--concurrency",
                "1",
                "-l",
                "warning",
                "--stats-address",
                "off",
                "--health-address",
                "off",
            ];
            sidecars.push(Profiled::start(
                weir,
                &arguments,
                directory.path(),
                name,
                counted,
            )?);
        }
        let mut pair = Self {
            target: if kind.is_http() {
                at.outbound_http
            } else {
                at.outbound_tcp
            },
            sidecars,
            _application: application,
            directory,
        };
        pair.wait(kind)?;
        Ok(pair)
    }

    fn wait(&mut self, kind: Kind) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let answered = Client::connect(self.target, kind, 1).and_then(|mut client| client.send(1));
            let Err(error) = answered else { return Ok(()) };
            let mut gone = false;
            for sidecar in &mut self.sidecars {
                gone |= sidecar.is_gone()?;
            }
            ensure!(
                !gone && begin.elapsed() < STARTING,
                "no request got through ({error:#}); the sidecars said:\n{}",
                self.sidecars.iter().map(Profiled::said).collect::<String>()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has the counters written and set to zero.
    ///
    /// # Errors
    /// When a sidecar does not answer.
    pub(super) fn mark(&mut self, hint: &str) -> anyhow::Result<()> {
        self.sidecars
            .iter_mut()
            .try_for_each(|sidecar| sidecar.write(hint))
    }

    /// What each of the requests since the last mark but one took, in both sidecars together.
    ///
    /// # Errors
    /// When what was written cannot be read.
    pub(super) fn figures(&self, requests: u32) -> anyhow::Result<Figures> {
        let (mut instructions, mut syscalls) = (0, 0);
        for sidecar in &self.sidecars {
            let counted = sidecar.counted()?;
            instructions += counted.instructions;
            syscalls += counted.syscalls;
        }
        let each = |total: u64| total as f64 / f64::from(requests);
        Ok(Figures::from([
            ("instructions", each(instructions)),
            ("syscalls", each(syscalls)),
        ]))
    }

    /// Resident memory of both sidecars together, in KiB.
    ///
    /// # Errors
    /// When a sidecar is gone.
    pub(super) fn resident(&self) -> anyhow::Result<u64> {
        self.sidecars.iter().map(Profiled::resident).sum()
    }

    /// Copies the profiles written last into a directory, as `<scenario>.inbound` and `<scenario>.outbound`.
    ///
    /// # Errors
    /// When they cannot be copied.
    pub(super) fn keep(&self, directory: &Path, scenario: &str) -> anyhow::Result<()> {
        fs::create_dir_all(directory)?;
        for sidecar in &self.sidecars {
            let profile = sidecar.profile();
            let name = profile.strip_prefix(self.directory.path()).unwrap_or(&profile);
            let name = name.with_extension("");
            let kept = directory.join(format!("{scenario}.{}", name.display()));
            fs::copy(&profile, &kept).with_context(|| format!("cannot write {}", kept.display()))?;
        }
        Ok(())
    }
}
