//! Namespaces and pods: who is in the mesh, who should be, and whose sidecar is not what it should be. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use weir_controller::{
    injector::{Decision, INIT_CONTAINER, NamespaceMeta, decide},
    spec::{ObjectName, Owner, PROXY_CONTAINER, Stored, has_sidecar},
};

use super::{
    mesh::View,
    report::{Section, many},
};

const MONITORED_BY: &str = "openservicemesh.io/monitored-by";
const INJECTION: &str = "openservicemesh.io/sidecar-injection";

/// What is wrong with the pods of one workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    /// It should have a sidecar.
    NoSidecar,
    /// Its namespace is not in the mesh any more.
    Leftover,
    /// Its sidecar is of another image than new pods get.
    Old(String),
    /// An annotation is not understood, so that the pod could not be made anew.
    Annotation(String),
    /// It has no network of its own, and can have no sidecar.
    HostNetwork,
    /// Its sidecar, or what redirects to it, does not run.
    NotRunning(String),
}

/// Workload: namespace, kind, name.
type Workload = (String, String, String);

/// Checks the namespaces and their pods. `image` is that of the sidecars of new pods.
pub(super) fn check(view: &View<'_>, image: Option<&str>) -> Section {
    let mut section = Section::new("namespaces and pods");
    namespaces(view, &mut section);
    let mut found: BTreeMap<(Workload, Trouble), Vec<&ObjectName>> = BTreeMap::new();
    let mut meshed = 0;
    let mut monitored = BTreeSet::new();
    for (name, pod) in view.objects.pods.iter() {
        if !view.has(&name.namespace) || ended(&pod.value) {
            continue;
        }
        let Some(namespace) = view.namespace(&name.namespace) else {
            continue;
        };
        if view.is_monitored(&name.namespace) {
            monitored.insert(&*name.namespace);
        }
        meshed += usize::from(has_sidecar(&pod.value));
        let owner = Owner::of(&pod.value.metadata);
        let workload = (name.namespace.to_string(), owner.kind, owner.name);
        for trouble in troubles(view, pod, &namespace, image) {
            found.entry((workload.clone(), trouble)).or_default().push(name);
        }
    }
    section.note(format!(
        "{} with a sidecar in {}",
        many(meshed, "pod"),
        many(monitored.len(), "namespace")
    ));
    for ((workload, trouble), pods) in found {
        tell(&mut section, &workload, &trouble, &pods);
    }
    section
}

fn namespaces(view: &View<'_>, section: &mut Section) {
    for name in view.namespaces {
        let object = format!("Namespace {name}");
        match view.namespace(name) {
            None => section.error(&object, "it does not exist", "correct its name"),
            Some(_) if !view.is_monitored(name) => section.error(
                &object,
                "it is not in the mesh",
                format!("weir namespace add {name}"),
            ),
            Some(_) => {}
        }
    }
    for (name, stored) in view
        .objects
        .namespaces
        .iter()
        .filter(|(name, _)| view.has(&name.name))
    {
        let namespace = NamespaceMeta::of(&stored.value);
        let object = format!("Namespace {}", name.name);
        if let Some(mesh) = namespace.labels.get(MONITORED_BY)
            && *mesh != view.settings.mesh_name
        {
            section.warning(
                object,
                format!(
                    "it belongs to mesh {mesh}, and the installed one is {}",
                    view.settings.mesh_name
                ),
                format!(
                    "weir namespace remove {0} --mesh-name {mesh}, then weir namespace add {0}",
                    name.name
                ),
            );
        } else if view.is_monitored(&name.name) && !namespace.annotations.contains_key(INJECTION) {
            section.warning(
                object,
                "it is in the mesh, but asks for no sidecars",
                format!(
                    "weir namespace add {0}, or with --disable-sidecar-injection to mean it so",
                    name.name
                ),
            );
        }
    }
}

fn troubles(
    view: &View<'_>,
    pod: &Stored<Pod>,
    namespace: &NamespaceMeta,
    image: Option<&str>,
) -> Vec<Trouble> {
    let pod = &pod.value;
    let decision = match decide(pod, namespace, &view.injection()) {
        Ok(decision) => decision,
        Err(error) => return vec![Trouble::Annotation(error.to_string())],
    };
    match (decision, has_sidecar(pod)) {
        (Decision::Inject, false) => vec![Trouble::NoSidecar],
        (Decision::OutsideMesh, true) => vec![Trouble::Leftover],
        (Decision::HostNetwork, false) => vec![Trouble::HostNetwork],
        (_, true) => old(pod, image).into_iter().chain(not_running(pod)).collect(),
        (_, false) => Vec::new(),
    }
}

fn old(pod: &Pod, image: Option<&str>) -> Option<Trouble> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    let mut containers = spec.containers.iter().chain(init);
    let sidecar = containers.find(|container| container.name == PROXY_CONTAINER)?;
    let own = sidecar.image.as_deref()?;
    (own != image?).then(|| Trouble::Old(own.to_owned()))
}

/// What the kubelet says of the sidecar and of what redirects to it, where it is not good.
fn not_running(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let mut ours = init
        .chain(status.container_statuses.iter().flatten())
        .filter(|it| it.name == PROXY_CONTAINER || it.name == INIT_CONTAINER);
    ours.find_map(complaint).map(Trouble::NotRunning)
}

fn complaint(container: &ContainerStatus) -> Option<String> {
    let name = &container.name;
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if ["", "PodInitializing", "ContainerCreating"].contains(&reason) {
            return None;
        }
        let message = waiting.message.as_deref().unwrap_or_default();
        return Some(format!("container {name} does not start: {reason} {message}"));
    }
    if let Some(ended) = state.terminated.as_ref().filter(|ended| ended.exit_code != 0) {
        return Some(format!("container {name} ended with status {}", ended.exit_code));
    }
    (name == PROXY_CONTAINER && state.running.is_some() && container.started == Some(false))
        .then(|| format!("container {name} runs, and has not got its configuration"))
}

fn tell(section: &mut Section, workload: &Workload, trouble: &Trouble, pods: &[&ObjectName]) {
    let (namespace, kind, name) = workload;
    let object = format!("{kind} {namespace}/{name}");
    let count = many(pods.len(), "pod");
    let again = anew(workload);
    match trouble {
        Trouble::NoSidecar => section.error(
            object,
            format!("{count} without a sidecar, made before the namespace was in the mesh"),
            again,
        ),
        Trouble::Leftover => section.warning(
            object,
            format!("{count} with a sidecar, in a namespace that is not in the mesh"),
            format!("{again}, or weir namespace add {namespace}"),
        ),
        Trouble::Old(image) => {
            section.warning(object, format!("{count} with the sidecar of another version, {image}"), again)
        }
        Trouble::Annotation(why) => section.error(object, why, "correct it; no pod can be made with it"),
        Trouble::HostNetwork => section.warning(
            object,
            format!("{count} on the node's network, which can have no sidecar"),
            format!("drop hostNetwork, or annotate the pods {INJECTION}: disabled to mean it so"),
        ),
        Trouble::NotRunning(why) => section.error(
            object,
            format!("{count}: {why}"),
            match pods {
                [pod, ..] => format!(
                    "kubectl -n {namespace} describe pod {0}; kubectl -n {namespace} logs {0} --all-containers",
                    pod.name
                ),
                [] => String::new(),
            },
        ),
    }
}

/// How the pods of a workload are made anew.
fn anew((namespace, kind, name): &Workload) -> String {
    match kind.as_str() {
        "Deployment" | "StatefulSet" | "DaemonSet" => {
            format!(
                "kubectl -n {namespace} rollout restart {}/{name}",
                kind.to_lowercase()
            )
        }
        "Job" => format!("delete Job {namespace}/{name} and create it again"),
        _ => format!("delete {kind} {namespace}/{name} and create it again"),
    }
}

fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}
