//! An API server and its etcd, on loopback, without a node: objects, webhooks, tokens and RBAC are real; nothing runs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use kube::{Client, Config, config::Kubeconfig};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::KeyPair;
use tokio::time::sleep;
use weir_testbed::free_ports;

use crate::{pki::Pki, process::Process};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const SERVICE_CIDR: &str = "10.96.0.0/16";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A running API server. Dropping it ends it.
pub struct ApiServer {
    directory: PathBuf,
    program: PathBuf,
    flags: Vec<String>,
    address: String,
    pki: Pki,
    kubeconfig: PathBuf,
    client: Client,
    server: Process,
    _etcd: Process,
}

impl ApiServer {
    /// Starts `kube-apiserver` of a directory of Kubernetes programs, and the etcd of that directory or else of PATH.
    /// Everything is written to `directory`.
    ///
    /// # Errors
    /// When a program is missing, ends, or does not get ready in time; the text has the end of its log.
    pub async fn start(programs: &Path, directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let pki = Pki::create(&directory.join("pki"))?;
        let [client_port, peer_port, secure_port] = free_ports()?;
        let etcd_url = format!("http://127.0.0.1:{client_port}");
        let etcd = Process::start(
            &etcd_program(programs),
            etcd_flags(&directory.join("etcd"), &etcd_url, peer_port),
            &directory.join("etcd.log"),
        )
        .context("etcd is missing; install the package etcd-server")?;
        let flags = server_flags(&pki, &etcd_url, secure_port)?;
        let program = programs.join("kube-apiserver");
        let address = format!("https://127.0.0.1:{secure_port}");
        let administrator = pki.client("administrator", "administrator", Some("system:masters"))?;
        let kubeconfig = pki.kubeconfig("administrator", &address, &administrator)?;
        let client = client(&kubeconfig).await?;
        let server = Process::start(&program, &flags, &directory.join("kube-apiserver.log"))?;
        let mut started = Self {
            directory: directory.to_owned(),
            program,
            flags,
            address,
            pki,
            kubeconfig,
            client,
            server,
            _etcd: etcd,
        };
        started.ready().await?;
        Ok(started)
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client for the administrator.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A kubeconfig for somebody else: a user's name, as RBAC knows it, and a group.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn kubeconfig_for(&self, file: &str, user: &str, group: Option<&str>) -> anyhow::Result<PathBuf> {
        let pair = self.pki.client(file, user, group)?;
        self.pki.kubeconfig(file, &self.address, &pair)
    }

    /// The key that it signs tokens of ServiceAccounts with.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn token_key(&self) -> anyhow::Result<KeyPair> {
        let path = self.pki.token_key();
        let pem = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(KeyPair::from_pem(&pem)?)
    }

    /// Stops the server where it is: it takes connections and answers nothing.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills the server; what it stored stays.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts the server anew on what is stored, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.server.kill();
        let log = self.directory.join("kube-apiserver.log");
        self.server = Process::start(&self.program, &self.flags, &log)?;
        self.ready().await
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.tail()
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.server.id().try_into()?), signal)?;
        Ok(())
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let Err(error) = self.client.request_text(request).await else {
                return Ok(());
            };
            self.server.check()?;
            if begun.elapsed() > PATIENCE {
                bail!(
                    "the API server is not ready within {PATIENCE:?}: {error}\n{}",
                    self.server.tail()
                );
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// A client for whoever a kubeconfig names.
///
/// # Errors
/// When the file cannot be used.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Whoever packs an API server for tests packs etcd with it; Debian has it in PATH.
fn etcd_program(programs: &Path) -> PathBuf {
    let packed = programs.join("etcd");
    if packed.is_file() { packed } else { "etcd".into() }
}

fn etcd_flags(data: &Path, url: &str, peer_port: u16) -> Vec<String> {
    let peer = format!("http://127.0.0.1:{peer_port}");
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]
}

fn server_flags(pki: &Pki, etcd: &str, port: u16) -> anyhow::Result<Vec<String>> {
    let serving = pki.server("kube-apiserver", &["localhost", "127.0.0.1"])?;
    Ok(vec![
        format!("--tls-cert-file={}", serving.certificate.display()),
        format!("--tls-private-key-file={}", serving.key.display()),
        format!("--client-ca-file={}", pki.root().certificate.display()),
        format!("--service-account-key-file={}", pki.token_public_key().display()),
        format!("--service-account-signing-key-file={}", pki.token_key().display()),
        format!("--service-account-issuer={ISSUER}"),
        format!("--etcd-servers={etcd}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        "--advertise-address=127.0.0.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        // Nothing makes ServiceAccounts and their tokens here; tests create the accounts that they need.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--allow-privileged=true".to_owned(),
    ])
}
