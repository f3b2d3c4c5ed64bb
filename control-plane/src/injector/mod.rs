//! The injector: adds the redirecting init container and the sidecar to a pod. Pure: a pod and its namespace
//! in, the pod to run out. The webhook, `weir inject` and the demo all go through [`inject`].
//!
//! Labels and annotations are OSM's (`openservicemesh.io/*`), and so is their precedence: the pod's annotation
//! over the namespace's, and nothing at all outside monitored namespaces.

mod bootstrap;
mod containers;
mod decision;
mod envoy;
mod exclusions;
mod metrics;
mod patch;
mod probes;
mod resources;
mod settings;
mod webhook;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSpec, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use self::probes::ProbeListeners;
use crate::spec::{LOG_LEVELS, Owner, PROXY_CONTAINER, has_sidecar};

pub use decision::{Decision, NamespaceMeta, decide};
pub use envoy::{Envoy, IDENTITY_DIRECTORY, Protocol};
pub use exclusions::Exclusions;
pub use settings::Settings;
pub use webhook::Webhook;

/// Name of the init container that redirects traffic.
pub const INIT_CONTAINER: &str = "weir-init";
/// Audience of the token by which a sidecar proves its ServiceAccount.
pub const TOKEN_AUDIENCE: &str = "weir-controller";
/// Where the sidecar finds that token.
pub const TOKEN_PATH: &str = "/var/run/secrets/weir/token";
/// User of the sidecar; its traffic is not redirected.
pub const PROXY_UID: i64 = 1500;

const TOKEN_VOLUME: &str = "weir-token";
const TOKEN_DIRECTORY: &str = "/var/run/secrets/weir";
const ANNOTATION_NATIVE: &str = "openservicemesh.io/native-sidecar";
const ANNOTATION_LOG_LEVEL: &str = "openservicemesh.io/log-level";
const ANNOTATION_STATUS: &str = "openservicemesh.io/sidecar-status";

/// Why a pod cannot be injected. The text is what the user sees when admission is denied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InjectError {
    /// An annotation's value is not understood.
    #[error("annotation {annotation}: {value:?} is not {wanted}")]
    Annotation {
        /// The annotation.
        annotation: String,
        /// Its value, or the part that is wrong.
        value: String,
        /// What it should have been.
        wanted: &'static str,
    },
    /// The sidecar would ask for more than it may have.
    #[error(
        "annotation {annotation}: the sidecar's request of {request} {resource} is above its limit of {limit}; raise the limit, or lower the request"
    )]
    Resources {
        /// The annotation that brings it about.
        annotation: String,
        /// `cpu` or `memory`.
        resource: String,
        /// What is asked for.
        request: String,
        /// What it may have.
        limit: String,
    },
    /// A probe cannot be kept working through the sidecar.
    #[error("container {container:?}, {probe}: {problem}")]
    Probe {
        /// The container.
        container: String,
        /// Which of its probes.
        probe: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The pod uses a name that the injector needs.
    #[error(
        "a container named {0:?} is there already; rename it, or annotate the pod openservicemesh.io/sidecar-injection: disabled"
    )]
    NameTaken(&'static str),
    /// A port of the application that the sidecar listens on.
    #[error(
        "container {container:?}: port {port} is the sidecar's; let the application listen on another, or annotate the pod openservicemesh.io/sidecar-injection: disabled"
    )]
    PortTaken {
        /// The container.
        container: String,
        /// The port.
        port: i32,
    },
    /// The pod runs on Windows.
    #[error(
        "there is no sidecar for Windows; annotate the pod openservicemesh.io/sidecar-injection: disabled"
    )]
    Windows,
    /// The pod has no specification.
    #[error("the pod has no spec")]
    NoSpec,
}

/// Adds the init container and the sidecar where [`decide`] says so, and gives the pod back unchanged where not.
///
/// A pod that was injected before stays as it is, but for probes that were added since: they are pointed at the sidecar
/// too.
///
/// # Errors
/// When an annotation or a probe cannot be understood, or the pod uses what the sidecar needs.
pub fn inject(mut pod: Pod, namespace: &NamespaceMeta, settings: &Settings) -> Result<Pod, InjectError> {
    if decide(&pod, namespace, settings)? != Decision::Inject {
        return Ok(pod);
    }
    if has_sidecar(&pod) {
        return again(pod);
    }
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let exclusions = settings.exclusions.with_annotations(&annotations)?;
    let native = native_layout(&annotations, settings)?;
    let log_level = log_level(&annotations, settings)?;
    let resources = resources::with_annotations(settings.resources.as_ref(), &annotations)?;
    let owner = Owner::of(&pod.metadata);
    let account = service_account(&pod);
    let spec = pod.spec.as_mut().ok_or(InjectError::NoSpec)?;
    refuse_what_is_taken(spec)?;

    let mut listeners = ProbeListeners::default();
    probes::rewrite(spec, &mut listeners, native)?;
    let annotations = pod.metadata.annotations.get_or_insert_default();
    let merged = metrics::redirect(annotations, namespace, spec, &exclusions);
    annotations.insert(ANNOTATION_STATUS.to_owned(), "injected".to_owned());
    let bootstrap = match &settings.envoy {
        None => bootstrap::render(settings, &namespace.name, &account, &listeners),
        Some(envoy) => envoy::render(settings, envoy, &namespace.name, &account, &listeners),
    };
    let sidecar = containers::Sidecar {
        log_level,
        owner,
        bootstrap,
        agent_bootstrap: bootstrap::render_agent(settings, &namespace.name, &account),
        resources,
        merged,
        native,
    };
    let init = containers::init(settings, &exclusions);
    let volumes = spec.volumes.get_or_insert_default();
    volumes.push(token_volume());
    match &settings.envoy {
        None => place(spec, init, [containers::proxy(settings, &sidecar)], native),
        Some(envoy) => {
            volumes.push(envoy::volume());
            place(spec, init, envoy::sidecars(settings, envoy, &sidecar), native);
        }
    }
    Ok(pod)
}

/// Another webhook may have added containers since: their probes are pointed at the sidecar, and nothing else changes.
fn again(mut pod: Pod) -> Result<Pod, InjectError> {
    let spec = pod.spec.as_mut().ok_or(InjectError::NoSpec)?;
    let native = spec.containers.iter().all(|it| it.name != PROXY_CONTAINER);
    let known = bootstrap_of(spec).and_then(|bootstrap| bootstrap::read_probes(bootstrap));
    // A sidecar that somebody else made is none of the injector's business.
    let Some(known) = known else {
        return Ok(pod);
    };
    let mut listeners = known.clone();
    probes::rewrite(spec, &mut listeners, native)?;
    if listeners != known
        && let Some(bootstrap) = bootstrap_of(spec)
        && let Some(new) = bootstrap::with_probes(bootstrap, &listeners)
    {
        *bootstrap = new;
    }
    Ok(pod)
}

fn bootstrap_of(spec: &mut PodSpec) -> Option<&mut String> {
    let inits = spec.init_containers.iter_mut().flatten();
    let mut all = spec.containers.iter_mut().chain(inits);
    let arguments = all.find(|it| it.name == PROXY_CONTAINER)?.args.as_mut()?;
    let flag = arguments.iter().position(|it| it == containers::BOOTSTRAP)?;
    arguments.get_mut(flag + 1)
}

fn refuse_what_is_taken(spec: &PodSpec) -> Result<(), InjectError> {
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err(InjectError::Windows);
    }
    let init = spec.init_containers.iter().flatten();
    for container in spec.containers.iter().chain(init) {
        let taken = [INIT_CONTAINER, envoy::AGENT_CONTAINER];
        if let Some(name) = taken.into_iter().find(|name| container.name == *name) {
            return Err(InjectError::NameTaken(name));
        }
        let mut ports = container.ports.iter().flatten().map(|port| port.container_port);
        if let Some(port) = ports.find(|port| containers::PORTS.contains(port)) {
            return Err(InjectError::PortTaken {
                container: container.name.clone(),
                port,
            });
        }
    }
    Ok(())
}

/// A native sidecar comes right after the redirect, so that the pod's own init containers and its application
/// start when the proxy is ready; the classic layout puts it first among the containers.
fn place<const N: usize>(spec: &mut PodSpec, init: Container, proxies: [Container; N], native: bool) {
    let inits = spec.init_containers.get_or_insert_default();
    if native {
        inits.splice(0..0, std::iter::once(init).chain(proxies));
    } else {
        // The pod's own init containers run before there is a proxy to be redirected to.
        inits.push(init);
        spec.containers.splice(0..0, proxies);
    }
}

fn token_volume() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(TOKEN_AUDIENCE.to_owned()),
        expiration_seconds: Some(3600),
        path: "token".to_owned(),
    };
    let source = VolumeProjection {
        service_account_token: Some(token),
        ..Default::default()
    };
    Volume {
        name: TOKEN_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(vec![source]),
            default_mode: Some(0o444),
        }),
        ..Default::default()
    }
}

fn enabled(value: &str) -> bool {
    matches!(value, "enabled" | "yes" | "true")
}

fn switch(annotations: &BTreeMap<String, String>, name: &str) -> Result<Option<bool>, InjectError> {
    match annotations
        .get(name)
        .map(|value| value.to_ascii_lowercase())
        .as_deref()
    {
        None => Ok(None),
        Some(value) if enabled(value) => Ok(Some(true)),
        Some("disabled" | "no" | "false") => Ok(Some(false)),
        Some(value) => Err(InjectError::Annotation {
            annotation: name.to_owned(),
            value: value.to_owned(),
            wanted: "one of enabled, yes, true, disabled, no, false",
        }),
    }
}

fn native_layout(annotations: &BTreeMap<String, String>, settings: &Settings) -> Result<bool, InjectError> {
    Ok(settings.native_sidecars && switch(annotations, ANNOTATION_NATIVE)?.unwrap_or(true))
}

fn log_level(annotations: &BTreeMap<String, String>, settings: &Settings) -> Result<String, InjectError> {
    match annotations.get(ANNOTATION_LOG_LEVEL) {
        None => Ok(settings.log_level.clone()),
        Some(level) if LOG_LEVELS.contains(&level.as_str()) => Ok(level.clone()),
        Some(level) => Err(InjectError::Annotation {
            annotation: ANNOTATION_LOG_LEVEL.to_owned(),
            value: level.clone(),
            wanted: "one of off, error, warn, info, debug, trace",
        }),
    }
}

fn service_account(pod: &Pod) -> String {
    let named = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone());
    named
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".to_owned())
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
