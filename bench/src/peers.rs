//! What is compared: nothing in between, or a pair of sidecars of one make.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    bootstrap::{self, Addresses, Between, Identities},
    load,
    pin::{self, Cores},
    server::Server,
};

/// The host that the routes know.
pub(crate) const HOST: &str = "server.bench";
/// How long a pair may take from its start to the first answer.
const STARTING: Duration = Duration::from_secs(20);

/// One way from client to server.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Name in reports.
    pub(crate) name: &'static str,
    /// The sidecars; `None`: none.
    pub(crate) pair: Option<(Make, Between)>,
}

/// The program that both sidecars run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// weir-proxy.
    Weir(PathBuf),
    /// Envoy.
    Envoy(PathBuf),
}

/// A way that is open.
pub(crate) struct Running {
    /// Where HTTP clients connect.
    pub(crate) http: SocketAddr,
    /// Where byte streams connect.
    pub(crate) tcp: SocketAddr,
    sidecars: Vec<Sidecar>,
    directory: Option<TempDir>,
}

struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Peer {
    /// Opens the way, and waits until a request gets through.
    ///
    /// # Errors
    /// When a sidecar does not start or no request gets through; with what the sidecars said.
    pub(crate) fn start(&self, server: &Server, cores: Cores) -> anyhow::Result<Running> {
        let Some((make, between)) = &self.pair else {
            return Ok(Running {
                http: server.http,
                tcp: server.sink,
                sidecars: Vec::new(),
                directory: None,
            });
        };
        let identities = Identities::new()?;
        self.pair(make, *between, server, cores, &identities)
            .with_context(|| format!("{} does not work", self.name))
    }

    /// Opens the way for a client that is not allowed, and makes sure that nothing gets through: a pair that does
    /// not enforce the policy is not worth comparing.
    ///
    /// # Errors
    /// When a request gets through, or the sidecars do not start.
    pub(crate) fn check_policy(&self, server: &Server, cores: Cores) -> anyhow::Result<()> {
        let Some((make, between)) = &self.pair else {
            return Ok(());
        };
        let identities = Identities::new()?.as_stranger();
        let running = launch(make, *between, server, cores, &identities)?;
        let begin = Instant::now();
        while begin.elapsed() < STARTING {
            match load::once(running.http, HOST) {
                Ok(200) => bail!(
                    "{} lets a client through that the policy does not name",
                    self.name
                ),
                Ok(_) => return Ok(()),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
        bail!("{} gave no answer to a client that is not allowed", self.name)
    }

    fn pair(
        &self,
        make: &Make,
        between: Between,
        server: &Server,
        cores: Cores,
        identities: &Identities,
    ) -> anyhow::Result<Running> {
        let mut running = launch(make, between, server, cores, identities)?;
        let begin = Instant::now();
        loop {
            match load::once(running.http, HOST) {
                Ok(200) => return Ok(running),
                other if begin.elapsed() > STARTING => {
                    let said = running.said();
                    bail!("no request got through ({other:?}); the sidecars said:\n{said}");
                }
                _ => {}
            }
            for sidecar in &mut running.sidecars {
                if let Some(status) = sidecar.0.try_wait()? {
                    let said = running.said();
                    bail!("a sidecar ended ({status}); the sidecars said:\n{said}");
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn launch(
    make: &Make,
    between: Between,
    server: &Server,
    cores: Cores,
    identities: &Identities,
) -> anyhow::Result<Running> {
    let directory = tempfile::tempdir()?;
    let at = addresses()?;
    let configurations = [
        (
            "inbound",
            bootstrap::inbound(identities, &at, between, server, Between::Http1),
        ),
        ("outbound", bootstrap::outbound(identities, &at, between)),
    ];
    let mut sidecars = Vec::new();
    for (name, configuration) in configurations {
        sidecars.push(spawn(make, directory.path(), name, &configuration, cores)?);
    }
    Ok(Running {
        http: at.outbound_http,
        tcp: at.outbound_tcp,
        sidecars,
        directory: Some(directory),
    })
}

/// Four ports that are free now.
///
/// # Errors
/// When the system has none left.
pub(crate) fn addresses() -> anyhow::Result<Addresses> {
    let [outbound_http, outbound_tcp, inbound_http, inbound_tcp] = weir_testbed::free_ports()?;
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Addresses {
        outbound_http: local(outbound_http),
        outbound_tcp: local(outbound_tcp),
        inbound_http: local(inbound_http),
        inbound_tcp: local(inbound_tcp),
    })
}

fn spawn(
    make: &Make,
    directory: &Path,
    name: &str,
    configuration: &Value,
    cores: Cores,
) -> anyhow::Result<Sidecar> {
    let path = directory.join(format!("{name}.json"));
    fs::write(&path, serde_json::to_vec_pretty(configuration)?)?;
    let log = fs::File::create(directory.join(format!("{name}.log")))?;
    let program = match make {
        Make::Weir(program) | Make::Envoy(program) => program,
    };
    let mut command = Command::new(program);
    command
        .arg("-c")
        .arg(&path)
        .args(["--concurrency", "1", "-l", "warning"]);
    match make {
        Make::Weir(_) => command.args(["--stats-address", "off", "--health-address", "off"]),
        Make::Envoy(_) => command.args(["--disable-hot-restart"]),
    };
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A process inherits the core of the thread that starts it.
    let started = thread::spawn(move || {
        pin::this_thread(cores.proxies);
        command.spawn()
    });
    match started.join() {
        Ok(child) => {
            Ok(Sidecar(child.with_context(|| {
                format!("cannot start {}", program.display())
            })?))
        }
        Err(_) => bail!("cannot start {}", program.display()),
    }
}

impl Running {
    /// CPU time that the sidecars have used so far.
    ///
    /// # Errors
    /// When a sidecar is gone.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = 0;
        for sidecar in &self.sidecars {
            let tasks = format!("/proc/{}/task", sidecar.0.id());
            for task in fs::read_dir(tasks).context("a sidecar is gone")? {
                // A thread may end while the directory is read.
                let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                    continue;
                };
                let nanos = text
                    .split_whitespace()
                    .next()
                    .and_then(|field| field.parse::<u64>().ok());
                total += nanos.context("no CPU time in schedstat")?;
            }
        }
        Ok(Duration::from_nanos(total))
    }

    /// Resident memory of one sidecar, the mean of the two, in bytes.
    ///
    /// # Errors
    /// When a sidecar is gone.
    pub(crate) fn rss(&self) -> anyhow::Result<Option<u64>> {
        let mut total = 0;
        for sidecar in &self.sidecars {
            let status = fs::read_to_string(format!("/proc/{}/status", sidecar.0.id()))?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))
                .context("no VmRSS")?;
            let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
            total += kib * 1024;
        }
        ensure!(total > 0 || self.sidecars.is_empty(), "a sidecar has no memory");
        Ok(total.checked_div(self.sidecars.len() as u64))
    }

    fn said(&self) -> String {
        let Some(directory) = &self.directory else {
            return String::new();
        };
        let logs = ["inbound.log", "outbound.log"]
            .map(|name| fs::read_to_string(directory.path().join(name)).unwrap_or_default());
        logs.concat()
    }
}
