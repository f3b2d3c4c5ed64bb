//! Probes and lifecycle hooks through the sidecar. The kubelet has no certificate of the mesh, so what it asks of the
//! application is pointed at listeners of the sidecar that forward exactly that, and nothing else.

mod listeners;
#[cfg(test)]
mod tests;

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, HTTPHeader, LifecycleHandler, PodSpec, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{InjectError, containers::HEALTH_PORT};
use crate::spec::PROXY_CONTAINER;

use listeners::Slot;
pub(super) use listeners::{CLUSTER, HttpProbe, ProbeListener, ProbeListeners, name};

/// What the kubelet asks of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Liveness,
    Readiness,
    Startup,
    PostStart,
    PreStop,
}

const PROBES: [Kind; 3] = [Kind::Liveness, Kind::Readiness, Kind::Startup];
const HOOKS: [Kind; 2] = [Kind::PostStart, Kind::PreStop];

impl Kind {
    /// The listener it is asked at. The ports of probes are OSM's.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Liveness | Self::PostStart | Self::PreStop => 15901,
            Self::Readiness => 15902,
            Self::Startup => 15903,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Liveness => "liveness-probe",
            Self::Readiness => "readiness-probe",
            Self::Startup => "startup-probe",
            Self::PostStart => "poststart-hook",
            Self::PreStop => "prestop-hook",
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
            Self::Startup => "startupProbe",
            Self::PostStart => "lifecycle.postStart",
            Self::PreStop => "lifecycle.preStop",
        }
    }

    fn probe(self, container: &mut Container) -> Option<&mut Probe> {
        match self {
            Self::Liveness => container.liveness_probe.as_mut(),
            Self::Readiness => container.readiness_probe.as_mut(),
            Self::Startup => container.startup_probe.as_mut(),
            Self::PostStart | Self::PreStop => None,
        }
    }

    fn hook(self, container: &mut Container) -> Option<&mut LifecycleHandler> {
        let lifecycle = container.lifecycle.as_mut()?;
        match self {
            Self::PostStart => lifecycle.post_start.as_mut(),
            Self::PreStop => lifecycle.pre_stop.as_mut(),
            Self::Liveness | Self::Readiness | Self::Startup => None,
        }
    }
}

/// Points what the kubelet asks of the pod's containers at the sidecar. What points there already stays.
pub(super) fn rewrite(
    spec: &mut PodSpec,
    listeners: &mut ProbeListeners,
    native: bool,
) -> Result<(), InjectError> {
    let inits = spec.init_containers.iter_mut().flatten();
    // Other init containers cannot have probes.
    let staying = inits.filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let all = spec.containers.iter_mut().map(|it| (it, true));
    for (container, after_sidecar) in all.chain(staying.map(|it| (it, native))) {
        if container.name == PROXY_CONTAINER {
            continue;
        }
        let mut work = Rewrite {
            ports: named_ports(container),
            container: container.name.clone(),
            after_sidecar,
            listeners,
        };
        for kind in PROBES {
            let done = kind
                .probe(container)
                .map_or(Ok(()), |probe| work.probe(kind, probe));
            done.map_err(|problem| refused(container, kind, problem))?;
        }
        for kind in HOOKS {
            let done = kind.hook(container).map_or(Ok(()), |hook| work.hook(kind, hook));
            done.map_err(|problem| refused(container, kind, problem))?;
        }
    }
    Ok(())
}

fn refused(container: &Container, kind: Kind, problem: String) -> InjectError {
    InjectError::Probe {
        container: container.name.clone(),
        probe: kind.field(),
        problem,
    }
}

/// The work on one container.
struct Rewrite<'a> {
    container: String,
    ports: Vec<(String, i32)>,
    /// Whether the sidecar is there when this container starts.
    after_sidecar: bool,
    listeners: &'a mut ProbeListeners,
}

impl Rewrite<'_> {
    fn probe(&mut self, kind: Kind, probe: &mut Probe) -> Result<(), String> {
        if let Some(get) = probe.http_get.as_mut() {
            let timeout = probe
                .timeout_seconds
                .and_then(|seconds| u32::try_from(seconds).ok());
            return self.http(kind, get, timeout.unwrap_or(1));
        }
        if let Some(grpc) = probe.grpc.as_mut() {
            let port = u16::try_from(grpc.port).map_err(|_| format!("{} is not a port", grpc.port))?;
            if !is_sidecars(port) {
                self.needs_sidecar()?;
                grpc.port = self.listeners.forward(Slot::Grpc, kind, port)?.into();
            }
            return Ok(());
        }
        // With a host it is not the pod that is dialled.
        if let Some(tcp) = probe.tcp_socket.take_if(|tcp| is_pods(tcp.host.as_deref())) {
            self.needs_sidecar()?;
            probe.http_get = Some(dial(resolve(&tcp.port, &self.ports)?));
        }
        Ok(())
    }

    fn hook(&mut self, kind: Kind, hook: &mut LifecycleHandler) -> Result<(), String> {
        // The kubelet waits for a hook as long as it lets the pod live.
        let whole = 0;
        hook.http_get
            .as_mut()
            .map_or(Ok(()), |get| self.http(kind, get, whole))
    }

    fn http(&mut self, kind: Kind, get: &mut HTTPGetAction, timeout: u32) -> Result<(), String> {
        if !is_pods(get.host.as_deref()) {
            return Ok(());
        }
        let port = resolve(&get.port, &self.ports)?;
        if is_sidecars(port) {
            return Ok(());
        }
        self.needs_sidecar()?;
        if get
            .scheme
            .as_deref()
            .is_some_and(|it| it.eq_ignore_ascii_case("https"))
        {
            get.port = IntOrString::Int(self.listeners.forward(Slot::Https, kind, port)?.into());
            return Ok(());
        }
        let path = format!("/osm-{}/{}", kind.name(), self.container);
        let original = get.path.replace(path.clone()).filter(|path| !path.is_empty());
        get.port = IntOrString::Int(kind.port().into());
        let probe = HttpProbe {
            path,
            original: original.unwrap_or_else(|| "/".to_owned()),
            port,
            timeout,
        };
        self.listeners.http(kind, probe);
        Ok(())
    }

    fn needs_sidecar(&self) -> Result<(), String> {
        if self.after_sidecar {
            return Ok(());
        }
        Err("an init container that stays starts before the sidecar of the classic layout, so it cannot be asked \
             through it; remove the annotation openservicemesh.io/native-sidecar"
            .to_owned())
    }
}

fn is_pods(host: Option<&str>) -> bool {
    host.is_none_or(str::is_empty)
}

/// Whether it points at the sidecar already: the pod was injected before.
fn is_sidecars(port: u16) -> bool {
    i32::from(port) == HEALTH_PORT || PROBES.iter().any(|kind| kind.port() == port)
}

/// The sidecar accepts every connection, so a TCP probe of it would say nothing: it is asked to dial the
/// application instead.
fn dial(port: u16) -> HTTPGetAction {
    HTTPGetAction {
        path: Some("/osm-healthcheck".to_owned()),
        port: IntOrString::Int(HEALTH_PORT),
        http_headers: Some(vec![HTTPHeader {
            name: "Original-Tcp-Port".to_owned(),
            value: port.to_string(),
        }]),
        ..Default::default()
    }
}

fn named_ports(container: &Container) -> Vec<(String, i32)> {
    let ports = container.ports.iter().flatten();
    ports
        .filter_map(|port| Some((port.name.clone()?, port.container_port)))
        .collect()
}

fn resolve(port: &IntOrString, named: &[(String, i32)]) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match named.iter().find(|(known, _)| known == name) {
            Some((_, number)) => *number,
            None => {
                return Err(format!(
                    "the container has no port named {name:?}; declare it, or write its number"
                ));
            }
        },
    };
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("{number} is not a port; write one from 1 to 65535")),
    }
}
