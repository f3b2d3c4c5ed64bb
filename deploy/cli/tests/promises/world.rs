//! The one mesh that all tests share.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::RwLock,
    time::timeout,
};
use weir::local::{LocalMesh, Options, programs};
use weir_controller::spec::PROXY_CONTAINER;
use weir_testbed::Sandbox;

/// Namespaces whose sidecars forget soon what is not used.
pub(crate) const FORGETFUL: &str = "demand-forgotten";
pub(crate) const AWAY: &str = "restart-away";
const SERVICE_IDLE_S: u32 = 2;
/// How long the mesh may take to come up or to end.
const LIMIT: Duration = Duration::from_secs(60);
/// Lines of a log that are shown.
const LOG_LINES: usize = 30;
const MESH_CONFIG: &str = "apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: weir-system}
spec:
  traffic: {enablePermissiveTrafficPolicyMode: false, enableEgress: false}
  # Certificates rotate under every test.
  certificate: {serviceCertValidityDuration: 30s}
";

/// The mesh, its manifests, and where both live.
pub(crate) struct World {
    mesh: LocalMesh,
    manifests: PathBuf,
    scratch: TempDir,
    /// Held for reading by every test, for writing by one that disturbs what all share.
    pub(crate) calm: RwLock<()>,
}

impl World {
    /// Starts the controller; tests bring the rest.
    pub(crate) async fn start(sandbox: Sandbox) -> anyhow::Result<Self> {
        let scratch = tempfile::Builder::new().prefix("weir-promises-").tempdir()?;
        let manifests = scratch.path().join("manifests");
        fs::create_dir(&manifests)?;
        fs::write(manifests.join("mesh-config.yaml"), MESH_CONFIG)?;
        let options = Options {
            sandbox,
            programs: programs::locate()?,
            envoys: None,
            manifests: manifests.clone(),
            run: scratch.path().join("run"),
        };
        let mesh = LocalMesh::start_adjusted(options, make_forgetful).await?;
        let world = Self {
            mesh,
            manifests,
            scratch,
            calm: RwLock::default(),
        };
        let ready = world.mesh.ready(LIMIT).await;
        ready.with_context(|| format!("the controller is not ready\n{}", world.controller_log()))?;
        Ok(world)
    }

    /// The mesh.
    pub(crate) fn mesh(&self) -> &LocalMesh {
        &self.mesh
    }

    /// Puts a manifest in place, whole.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let draft = self.manifests.join(format!(".{name}.new"));
        fs::write(&draft, text)?;
        fs::rename(draft, self.path(name))
    }

    /// A manifest that was put in place.
    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.path(name))
    }

    /// Takes a manifest away.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.manifests.join(format!("{name}.yaml"))
    }

    /// The controller's state directory: its root and the key of join tokens.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.run_dir().join("state")
    }

    /// Everything that the mesh writes.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.scratch.path().join("run")
    }

    /// What the API server would say of an object.
    pub(crate) fn observed(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.mesh.testbed().cluster_dir().join(file))
    }

    /// The end of the controller's log.
    pub(crate) fn controller_log(&self) -> String {
        format!(
            "the controller's last words:\n{}",
            tail(&self.mesh.controller_log())
        )
    }

    /// Ends every pod in order, and removes every file.
    pub(crate) async fn end(self) {
        let ended = within(LIMIT, "to end the pods", self.mesh.stop()).await;
        if let Err(error) | Ok(Err(error)) = ended {
            eprintln!("{error:#}");
        }
        sweep(self.scratch.path());
    }

    /// Removes every file when the run is broken off; the sandbox ends the processes.
    pub(crate) fn end_on_signal(&self) -> impl Future<Output = ()> + Send + 'static {
        let scratch = self.scratch.path().to_owned();
        async move {
            let (Ok(mut terminate), Ok(mut interrupt)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                return;
            };
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            sweep(&scratch);
            std::process::exit(130);
        }
    }
}

/// Lets the sidecars of some namespaces forget soon what is not used.
fn make_forgetful(pod: &mut Pod) {
    let namespace = pod.metadata.namespace.as_deref();
    let Some(spec) = pod
        .spec
        .as_mut()
        .filter(|_| namespace.is_some_and(|name| [FORGETFUL, AWAY].contains(&name)))
    else {
        return;
    };
    let all = spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers);
    for sidecar in all.filter(|container| container.name == PROXY_CONTAINER) {
        let flags = sidecar.args.get_or_insert_default();
        flags.push(format!("--service-idle-s={SERVICE_IDLE_S}"));
    }
}

/// Removes the run's files. Network namespaces are mounted among them.
fn sweep(scratch: &Path) {
    let mounted = fs::read_dir(scratch.join("run/netns"));
    for entry in mounted.into_iter().flatten().flatten() {
        let _not_mounted = umount2(&entry.path(), MntFlags::MNT_DETACH);
    }
    if let Err(error) = fs::remove_dir_all(scratch) {
        eprintln!("cannot remove {}: {error}", scratch.display());
    }
}

/// The end of a log.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Waits for something, but not for ever.
pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = T>,
) -> anyhow::Result<T> {
    timeout(limit, work)
        .await
        .with_context(|| format!("{what}: not within {limit:?}"))
}

/// Whether a program of this name is on the path, and where.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut directories = std::env::split_paths(&path).chain(system);
    directories.find_map(|directory| Some(directory.join(name)).filter(|path: &PathBuf| Path::is_file(path)))
}
