//! Probes through the sidecar. The kubelet has no certificate of the mesh, so its probes of the application are
//! pointed at listeners of the sidecar that forward exactly the probed path, and nothing else.

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, HTTPHeader, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{InjectError, containers::HEALTH_PORT};

/// What the sidecar must listen on for the probes of a pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ProbeListeners {
    /// One per kind of probe that is used.
    pub(super) listeners: Vec<ProbeListener>,
}

/// The listener of one kind of probe.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProbeListener {
    pub(super) kind: ProbeKind,
    pub(super) http: Vec<HttpProbe>,
    /// Port of an HTTPS probe; its TLS is the application's own.
    pub(super) https: Option<u16>,
    /// Port of a gRPC probe.
    pub(super) grpc: Option<u16>,
}

/// One HTTP probe.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HttpProbe {
    /// Path that the kubelet asks the sidecar for.
    pub(super) path: String,
    /// Path of the application.
    pub(super) original: String,
    /// Port of the application.
    pub(super) port: u16,
    /// Whole probe, in seconds.
    pub(super) timeout: u32,
}

/// The three kinds of probes and their ports, which are OSM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

impl ProbeKind {
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Liveness => 15901,
            Self::Readiness => 15902,
            Self::Startup => 15903,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
            Self::Startup => "startupProbe",
        }
    }

    fn of(self, container: &mut Container) -> Option<&mut Probe> {
        match self {
            Self::Liveness => container.liveness_probe.as_mut(),
            Self::Readiness => container.readiness_probe.as_mut(),
            Self::Startup => container.startup_probe.as_mut(),
        }
    }
}

/// Points the probes of these containers at the sidecar.
pub(super) fn rewrite(containers: &mut [Container]) -> Result<ProbeListeners, InjectError> {
    let mut listeners = Vec::new();
    for kind in [ProbeKind::Liveness, ProbeKind::Readiness, ProbeKind::Startup] {
        let mut listener = ProbeListener {
            kind,
            http: Vec::new(),
            https: None,
            grpc: None,
        };
        for container in containers.iter_mut() {
            rewrite_one(container, &mut listener).map_err(|problem| InjectError::Probe {
                container: container.name.clone(),
                probe: kind.field(),
                problem,
            })?;
        }
        if !listener.http.is_empty() || listener.https.is_some() || listener.grpc.is_some() {
            listeners.push(listener);
        }
    }
    Ok(ProbeListeners { listeners })
}

fn rewrite_one(container: &mut Container, listener: &mut ProbeListener) -> Result<(), String> {
    let named = named_ports(container);
    let name = container.name.clone();
    let kind = listener.kind;
    let Some(probe) = kind.of(container) else {
        return Ok(());
    };
    let timeout = probe
        .timeout_seconds
        .and_then(|seconds| u32::try_from(seconds).ok())
        .unwrap_or(1);
    if let Some(get) = probe.http_get.as_mut() {
        let port = resolve(&get.port, &named)?;
        get.port = IntOrString::Int(kind.port().into());
        if get
            .scheme
            .as_deref()
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
        {
            return only(&mut listener.https, port, "HTTPS");
        }
        let path = format!("/osm-{}-probe/{name}", kind.name());
        let original = get.path.replace(path.clone()).filter(|path| !path.is_empty());
        listener.http.push(HttpProbe {
            path,
            original: original.unwrap_or_else(|| "/".to_owned()),
            port,
            timeout,
        });
    } else if let Some(grpc) = probe.grpc.as_mut() {
        let port = u16::try_from(grpc.port).map_err(|_| format!("{} is not a port", grpc.port))?;
        grpc.port = kind.port().into();
        return only(&mut listener.grpc, port, "gRPC");
    } else if let Some(tcp) = probe.tcp_socket.take() {
        let port = resolve(&tcp.port, &named)?;
        probe.http_get = Some(dial(port));
    }
    Ok(())
}

/// A port of the sidecar carries one HTTPS and one gRPC probe: neither has a path to tell two apart.
fn only(slot: &mut Option<u16>, port: u16, what: &str) -> Result<(), String> {
    match slot.replace(port) {
        Some(other) if other != port => Err(format!(
            "a second {what} probe of this kind, at port {port} beside {other}, cannot be told apart; probe one of the two"
        )),
        _ => Ok(()),
    }
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
            None => return Err(format!("the container has no port named {name:?}")),
        },
    };
    u16::try_from(number).map_err(|_| format!("{number} is not a port"))
}
