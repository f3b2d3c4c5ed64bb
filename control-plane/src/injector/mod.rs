//! The injector: adds the redirecting init container and the sidecar to a pod. Pure: a pod and its namespace
//! in, the pod to run out. The webhook, `weir inject` and the demo all go through [`inject`].
//!
//! Labels and annotations are OSM's (`openservicemesh.io/*`), and so is their precedence: the pod's annotation
//! over the namespace's, and nothing at all outside monitored namespaces.

mod bootstrap;
mod containers;
mod decision;
mod exclusions;
mod probes;
mod settings;
mod webhook;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Container, Pod, PodSpec, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume,
        VolumeProjection,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::spec::{LOG_LEVELS, Owner, has_sidecar};

pub use decision::{Decision, NamespaceMeta, decide};
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
const ANNOTATION_METRICS: &str = "openservicemesh.io/metrics";
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
    /// The pod has no specification.
    #[error("the pod has no spec")]
    NoSpec,
}

/// Adds the init container and the sidecar where [`decide`] says so; gives the pod back unchanged where not, or
/// where it was injected before.
///
/// # Errors
/// When an annotation or a probe cannot be understood.
pub fn inject(mut pod: Pod, namespace: &NamespaceMeta, settings: &Settings) -> Result<Pod, InjectError> {
    if decide(&pod, namespace, settings)? != Decision::Inject || has_sidecar(&pod) {
        return Ok(pod);
    }
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let exclusions = settings.exclusions.with_annotations(&annotations)?;
    let native = native_layout(&annotations, settings)?;
    let log_level = log_level(&annotations, settings)?;
    let owner = Owner::of(&pod.metadata);
    let account = service_account(&pod);
    let spec = pod.spec.as_mut().ok_or(InjectError::NoSpec)?;
    refuse_taken_names(spec)?;

    let listeners = probes::rewrite(&mut spec.containers)?;
    let bootstrap = bootstrap::render(settings, &namespace.name, &account, listeners);
    let proxy = containers::proxy(settings, &log_level, &owner, bootstrap, native);
    place(spec, containers::init(settings, &exclusions), proxy, native);
    spec.volumes.get_or_insert_default().push(token_volume());
    mark(&mut pod.metadata, namespace);
    Ok(pod)
}

fn refuse_taken_names(spec: &PodSpec) -> Result<(), InjectError> {
    let taken = |name: &str| {
        let init = spec.init_containers.iter().flatten();
        spec.containers
            .iter()
            .chain(init)
            .any(|container| container.name == name)
    };
    match taken(INIT_CONTAINER) {
        true => Err(InjectError::NameTaken(INIT_CONTAINER)),
        false => Ok(()),
    }
}

/// A native sidecar comes right after the redirect, so that the pod's own init containers and its application
/// start when the proxy is ready; the classic layout puts it first among the containers.
fn place(spec: &mut PodSpec, init: Container, proxy: Container, native: bool) {
    let inits = spec.init_containers.get_or_insert_default();
    if native {
        inits.splice(0..0, [init, proxy]);
    } else {
        // The pod's own init containers run before there is a proxy to be redirected to.
        inits.push(init);
        spec.containers.insert(0, proxy);
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

fn mark(metadata: &mut ObjectMeta, namespace: &NamespaceMeta) {
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_STATUS.to_owned(), "injected".to_owned());
    let scraped = namespace
        .annotations
        .get(ANNOTATION_METRICS)
        .is_some_and(|value| enabled(value));
    // An application that is scraped already keeps its own annotations.
    if scraped && !annotations.contains_key("prometheus.io/scrape") {
        for (key, value) in [
            ("scrape", "true"),
            ("port", "15010"),
            ("path", "/stats/prometheus"),
        ] {
            annotations.insert(format!("prometheus.io/{key}"), value.to_owned());
        }
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
mod tests;
