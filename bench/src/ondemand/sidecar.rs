//! A sidecar process, and what its application sees of it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::backend;
use crate::{
    page,
    pin::{self, Cores},
    process::Process,
};

/// How long a sidecar may take to start, and to be told of a whole mesh.
const PATIENCE: Duration = Duration::from_secs(120);
const REQUEST: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Which program.
#[derive(Clone, Debug)]
pub(crate) enum Make {
    /// weir-proxy.
    Weir(PathBuf),
    /// Envoy.
    Envoy(PathBuf),
}

/// One that runs.
pub(super) struct Sidecar {
    process: Process,
    admin: SocketAddr,
}

impl Sidecar {
    /// Starts one; it may have no configuration yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(
        make: &Make,
        bootstrap: &Value,
        admin: SocketAddr,
        directory: &Path,
        cores: Cores,
    ) -> anyhow::Result<Self> {
        let (program, flags) = match make {
            Make::Weir(program) => (
                program,
                &["--stats-address", "off", "--health-address", "off"][..],
            ),
            Make::Envoy(program) => (program, &["--disable-hot-restart"][..]),
        };
        let file = directory.join("sidecar.json");
        fs::write(&file, serde_json::to_vec_pretty(bootstrap)?)?;
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(file)
            .args(["--concurrency", "1", "-l", "warning"])
            .args(flags);
        let process = Process::start(command, &directory.join("sidecar.log"), |command| {
            Ok(pin::on(cores.proxies, || command.spawn())??)
        })?;
        Ok(Self { process, admin })
    }

    /// Asks a service for a page over a connection of its own, and says how long that took.
    ///
    /// # Errors
    /// When there is no good answer.
    pub(super) async fn ask(&self, to: SocketAddr) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let exchange = async {
            let mut stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let request = format!("GET / HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let head = backend::head(&mut stream).await.context("no answer")?;
            let took = begun.elapsed();
            ensure!(head.starts_with("HTTP/1.1 200"), "the answer is {head}");
            stream.read_to_end(&mut Vec::new()).await?;
            anyhow::Ok(took)
        };
        timeout(REQUEST, exchange)
            .await
            .with_context(|| format!("{to} did not answer within {REQUEST:?}"))?
    }

    /// Asks until there is a good answer: the sidecar may be on its way up.
    ///
    /// # Errors
    /// When it ends, or takes too long.
    pub(super) async fn reach(&mut self, to: SocketAddr) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let ended = self.process.ended()?;
            let error = match self.ask(to).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let said = self.process.said();
                return Err(error.context(format!("the sidecar does not serve; it said:\n{said}")));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until it has the listeners of so many services.
    ///
    /// # Errors
    /// When it takes too long.
    pub(super) async fn holds(&self, services: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let count = self.listeners().await?;
            if count >= services {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "the sidecar holds {count} listeners of {services}"
            );
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Listeners that it was told of.
    ///
    /// # Errors
    /// When its admin page does not answer.
    pub(super) async fn listeners(&self) -> anyhow::Result<usize> {
        let (_, dump) = page::get(self.admin, "/config_dump?resource=dynamic_listeners").await?;
        Ok(dump.matches("\"active_state\"").count())
    }

    /// Resident bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        self.process.rss()
    }

    /// CPU time that it has used.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        self.process.cpu()
    }
}
