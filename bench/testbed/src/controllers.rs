//! Deployments, StatefulSets, Jobs and bare Pods: which pods to create and which to end. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::manifests::{Key, Manifests};

/// Who wants a pod, and in which version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) kind: &'static str,
    pub(crate) key: Key,
    /// Hash of the pod template.
    pub(crate) version: String,
}

/// A pod as the controllers see it.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) owner: Owner,
    pub(crate) name: String,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    pub(crate) ended: bool,
    pub(crate) failed: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Create { owner: Owner, pod: Box<Pod> },
    End { namespace: String, name: String },
}

/// Steps that bring `pods` nearer to what `wanted` asks for; called again after each change.
pub(crate) fn reconcile(
    wanted: &Manifests,
    pods: &[Observed],
    fresh_name: &mut dyn FnMut() -> String,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (key, deployment) in &wanted.deployments {
        let Some(spec) = &deployment.spec else { continue };
        let owner = owner("Deployment", key, &spec.template);
        let update = spec
            .strategy
            .as_ref()
            .and_then(|strategy| strategy.rolling_update.as_ref());
        let replicas = count(spec.replicas, 1);
        let surge = share(
            update.and_then(|update| update.max_surge.as_ref()),
            replicas,
            true,
        );
        let unavailable = share(
            update.and_then(|update| update.max_unavailable.as_ref()),
            replicas,
            false,
        );
        let recreate = spec
            .strategy
            .as_ref()
            .and_then(|strategy| strategy.type_.as_deref())
            == Some("Recreate");
        let (surge, unavailable) = match (recreate, surge, unavailable) {
            (true, ..) => (0, replicas),
            (false, 0, 0) => (1, 0),
            (false, surge, unavailable) => (surge, unavailable),
        };
        let mine = of(pods, &owner);
        let mut name = || format!("{}-{}-{}", key.1, owner.version, fresh_name());
        roll(
            &owner,
            &spec.template,
            &mine,
            (replicas, surge, unavailable),
            &mut name,
            &mut steps,
        );
    }
    for (key, set) in &wanted.stateful_sets {
        let Some(spec) = &set.spec else { continue };
        let owner = owner("StatefulSet", key, &spec.template);
        let service = spec.service_name.clone().unwrap_or_default();
        ordered(
            &owner,
            &spec.template,
            count(spec.replicas, 1),
            &service,
            &of(pods, &owner),
            &mut steps,
        );
    }
    for (key, job) in &wanted.jobs {
        let Some(spec) = &job.spec else { continue };
        let owner = owner("Job", key, &spec.template);
        let mine = of(pods, &owner);
        let limit = count(spec.backoff_limit, 6);
        if mine.iter().all(|pod| pod.failed) && mine.len() <= limit {
            let name = format!("{}-{}", key.1, fresh_name());
            steps.push(create(&owner, &spec.template, name, None));
        }
    }
    for (key, pod) in &wanted.pods {
        let template = PodTemplateSpec {
            metadata: Some(pod.metadata.clone()),
            spec: pod.spec.clone(),
        };
        let owner = owner("Pod", key, &template);
        let mine = of(pods, &owner);
        if mine.is_empty() {
            steps.push(create(&owner, &template, key.1.clone(), None));
        }
        steps.extend(
            mine.iter()
                .filter(|other| other.owner.version != owner.version)
                .filter_map(|other| end(other)),
        );
    }
    steps.extend(
        pods.iter()
            .filter(|pod| !exists(wanted, &pod.owner))
            .filter_map(end),
    );
    steps
}

fn owner(kind: &'static str, key: &Key, template: &PodTemplateSpec) -> Owner {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(template)
        .unwrap_or_default()
        .hash(&mut hasher);
    let version = format!("{:010x}", hasher.finish() & 0xff_ffff_ffff);
    Owner {
        kind,
        key: key.clone(),
        version,
    }
}

fn of<'a>(pods: &'a [Observed], owner: &Owner) -> Vec<&'a Observed> {
    pods.iter()
        .filter(|pod| pod.owner.kind == owner.kind && pod.owner.key == owner.key)
        .collect()
}

fn exists(wanted: &Manifests, owner: &Owner) -> bool {
    match owner.kind {
        "Deployment" => wanted.deployments.contains_key(&owner.key),
        "StatefulSet" => wanted.stateful_sets.contains_key(&owner.key),
        "Job" => wanted.jobs.contains_key(&owner.key),
        _ => wanted.pods.contains_key(&owner.key),
    }
}

fn count(number: Option<i32>, default: usize) -> usize {
    number.map_or(default, |number| usize::try_from(number).unwrap_or(0))
}

/// A number or percentage of `replicas`; 25 % by default. Surge rounds up, unavailability down.
fn share(value: Option<&IntOrString>, replicas: usize, up: bool) -> usize {
    let percent = match value {
        Some(IntOrString::Int(number)) => return usize::try_from(*number).unwrap_or(0),
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse().unwrap_or(25),
        None => 25,
    };
    if up {
        (replicas * percent).div_ceil(100)
    } else {
        replicas * percent / 100
    }
}

fn roll(
    owner: &Owner,
    template: &PodTemplateSpec,
    mine: &[&Observed],
    (replicas, surge, unavailable): (usize, usize, usize),
    name: &mut dyn FnMut() -> String,
    steps: &mut Vec<Step>,
) {
    steps.extend(mine.iter().filter(|pod| pod.ended).filter_map(|pod| end(pod)));
    let alive: Vec<&Observed> = mine
        .iter()
        .copied()
        .filter(|pod| !pod.terminating && !pod.ended)
        .collect();
    let (new, old): (Vec<&Observed>, Vec<&Observed>) = alive
        .iter()
        .copied()
        .partition(|pod| pod.owner.version == owner.version);
    let room = (replicas + surge).saturating_sub(alive.len());
    for _ in 0..replicas.saturating_sub(new.len()).min(room) {
        steps.push(create(owner, template, name(), Some(owner.version.clone())));
    }
    let mut spare = new.iter().filter(|pod| pod.ready).count() + old.iter().filter(|pod| pod.ready).count();
    spare = spare.saturating_sub(replicas.saturating_sub(unavailable));
    for pod in old {
        if !pod.ready {
            steps.extend(end(pod));
        } else if spare > 0 {
            spare -= 1;
            steps.extend(end(pod));
        }
    }
    let mut surplus: Vec<_> = new;
    surplus.sort_by_key(|pod| !pod.ready);
    for pod in surplus.iter().rev().take(surplus.len().saturating_sub(replicas)) {
        steps.extend(end(pod));
    }
}

/// StatefulSet: `name-0` first, each after the one before is ready; changed ones are replaced last to first.
fn ordered(
    owner: &Owner,
    template: &PodTemplateSpec,
    replicas: usize,
    service: &str,
    mine: &[&Observed],
    steps: &mut Vec<Step>,
) {
    steps.extend(mine.iter().filter(|pod| pod.ended).filter_map(|pod| end(pod)));
    let named = |ordinal: usize| format!("{}-{ordinal}", owner.key.1);
    let wanted: Vec<String> = (0..replicas).map(named).collect();
    steps.extend(
        mine.iter()
            .filter(|pod| !wanted.contains(&pod.name))
            .filter_map(|pod| end(pod)),
    );
    for name in &wanted {
        match mine.iter().find(|pod| pod.name == *name) {
            None => {
                let mut step = create(owner, template, name.clone(), None);
                if let Step::Create { pod, .. } = &mut step {
                    let spec = pod.spec.get_or_insert_with(PodSpec::default);
                    spec.hostname = Some(name.clone());
                    spec.subdomain = Some(service.to_owned());
                }
                steps.push(step);
                return;
            }
            Some(pod) if !pod.ready && pod.owner.version == owner.version => return,
            Some(_) => {}
        }
    }
    if let Some(stale) = wanted.iter().rev().find_map(|name| {
        mine.iter()
            .find(|pod| pod.name == *name && pod.owner.version != owner.version)
    }) {
        steps.extend(end(stale));
    }
}

fn end(pod: &Observed) -> Option<Step> {
    (!pod.terminating).then(|| Step::End {
        namespace: pod.owner.key.0.clone(),
        name: pod.name.clone(),
    })
}

/// The pod of a template, with its owner as Kubernetes records it: a Deployment's pods belong to its ReplicaSet.
fn create(owner: &Owner, template: &PodTemplateSpec, name: String, hash: Option<String>) -> Step {
    let mut metadata = template.metadata.clone().unwrap_or_default();
    metadata.name = Some(name);
    metadata.namespace = Some(owner.key.0.clone());
    let reference = |kind: &str, api: &str, name: String| OwnerReference {
        api_version: api.into(),
        kind: kind.into(),
        uid: format!("{:x}", hash_of(&(kind, &owner.key, &name))),
        name,
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let reference = match (owner.kind, &hash) {
        ("Deployment", Some(hash)) => Some(reference(
            "ReplicaSet",
            "apps/v1",
            format!("{}-{hash}", owner.key.1),
        )),
        ("StatefulSet", _) => Some(reference("StatefulSet", "apps/v1", owner.key.1.clone())),
        ("Job", _) => Some(reference("Job", "batch/v1", owner.key.1.clone())),
        _ => None,
    };
    metadata.owner_references = reference.map(|reference| vec![reference]);
    if let Some(hash) = hash {
        metadata
            .labels
            .get_or_insert_default()
            .insert("pod-template-hash".into(), hash);
    }
    let pod = Pod {
        metadata,
        spec: template.spec.clone(),
        status: None,
    };
    Step::Create {
        owner: owner.clone(),
        pod: Box::new(pod),
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
