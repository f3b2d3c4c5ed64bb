//! One controller process.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weir::local::programs;
use weir_cluster::process::Process;
use weir_testbed::free_ports;

use crate::world::{SYSTEM, eventually};

/// Lines of a log that an error shows.
const TAIL: usize = 30;

/// Where a controller listens.
pub(crate) struct Ports {
    pub(crate) xds: u16,
    pub(crate) health: u16,
    pub(crate) injector: u16,
    pub(crate) validator: u16,
}

/// A controller, which may be started anew.
pub(crate) struct Controller {
    pub(crate) name: String,
    pub(crate) ports: Ports,
    kubeconfig: PathBuf,
    directory: PathBuf,
    starts: AtomicU32,
    process: Mutex<Option<Process>>,
    log: Mutex<Arc<Path>>,
}

impl Controller {
    /// Starts one with the rights of a kubeconfig.
    pub(crate) fn start(name: &str, kubeconfig: &Path, directory: &Path) -> anyhow::Result<Self> {
        let [xds, health, injector, validator] = free_ports()?;
        let controller = Self {
            name: name.to_owned(),
            ports: Ports {
                xds,
                health,
                injector,
                validator,
            },
            kubeconfig: kubeconfig.to_owned(),
            directory: directory.to_owned(),
            starts: AtomicU32::new(0),
            process: Mutex::new(None),
            log: Mutex::new(directory.into()),
        };
        controller.restart()?;
        Ok(controller)
    }

    /// Kills it, where it runs, and starts it.
    pub(crate) fn restart(&self) -> anyhow::Result<()> {
        self.kill();
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.join(format!("{}-{start}.log", self.name));
        let programs = programs::locate()?;
        let program = programs.get("weir-controller").context("no weir-controller")?;
        let mut arguments = vec![
            format!("KUBECONFIG={}", self.kubeconfig.display()),
            program.display().to_string(),
            format!("--replica={}", self.name),
            format!("--namespace={SYSTEM}"),
        ];
        let Ports {
            xds,
            health,
            injector,
            validator,
        } = self.ports;
        for (listener, port) in [
            ("xds", xds),
            ("health", health),
            ("injector", injector),
            ("validator", validator),
        ] {
            arguments.push(format!("--{listener}-address=127.0.0.1:{port}"));
        }
        *self.process.lock() = Some(Process::start(Path::new("env"), arguments, &log)?);
        *self.log.lock() = log.into();
        Ok(())
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        drop(self.process.lock().take());
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let process = self.process.lock();
        let id = process.as_ref().context("the controller does not run")?.id();
        kill(Pid::from_raw(id.try_into()?), Signal::SIGTERM)?;
        Ok(())
    }

    /// An error unless it runs still.
    pub(crate) fn runs(&self) -> anyhow::Result<()> {
        let mut process = self.process.lock();
        process.as_mut().context("the controller does not run")?.check()
    }

    /// Memory that it has, in MiB.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let process = self.process.lock();
        let id = process.as_ref().context("the controller does not run")?.id();
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.context("no VmRSS")?.trim().trim_end_matches(" kB").trim();
        Ok(kib.parse::<u64>()? / 1024)
    }

    /// What it logged since it was started last.
    pub(crate) fn log(&self) -> String {
        fs::read(&**self.log.lock()).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The end of its log, for errors.
    pub(crate) fn evidence(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        format!("controller {}:\n{end}\n", self.name)
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let ready = eventually("the controller to be ready", || async {
            self.runs()?;
            let (status, body) = self.page("/health/ready").await?;
            ensure!(status == 200, "{status}: {body}");
            Ok(())
        });
        ready.await.with_context(|| self.evidence())
    }

    /// A page of its health address: the status and the body.
    pub(crate) async fn page(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.health)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// The sum of the samples of a metric whose labels have all of these.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let (_, body) = self.page("/metrics").await?;
        let samples = body.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let rest = series.strip_prefix(name)?;
            let is_it = rest.is_empty() || rest.starts_with('{');
            (is_it && labels.iter().all(|label| rest.contains(label))).then(|| value.parse::<f64>().ok())?
        });
        Ok(samples.sum())
    }
}
