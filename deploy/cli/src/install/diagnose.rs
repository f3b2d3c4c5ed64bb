//! Why a controller does not run, and what to do about it. Pure: what the API server says in, sentences out.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod, PodStatus},
};
use kube::ResourceExt;

/// Something in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Which object has it.
    pub(crate) object: String,
    /// What it is.
    pub(crate) what: String,
    /// What to do.
    pub(crate) next: String,
}

impl Problem {
    /// The problem on a line of its own.
    pub(super) fn line(&self) -> String {
        format!("\n  {}: {}; {}", self.object, self.what, self.next)
    }
}

/// Whether all pods of a Deployment are of its newest version and available.
pub(super) fn rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas.unwrap_or(0) >= wanted
            && status.available_replicas.unwrap_or(0) >= wanted
            && status.replicas.unwrap_or(0) <= wanted
    })
}

/// How far a Deployment is, and what is in the way, on one line.
pub(super) fn summary(deployment: &Deployment, problems: &[Problem]) -> String {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.as_ref();
    let updated = status.and_then(|it| it.updated_replicas).unwrap_or(0);
    let available = status.and_then(|it| it.available_replicas).unwrap_or(0);
    let ready = available.min(updated);
    let mut text = format!("{ready} of {wanted} controllers are ready");
    for problem in problems {
        text.push_str(&format!("; {}: {}", problem.object, problem.what));
    }
    text
}

/// What is in the way of a Deployment's pods.
pub(crate) fn problems(namespace: &str, deployment: &Deployment, pods: &[Pod]) -> Vec<Problem> {
    let mut found: Vec<Problem> = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| of_pod(namespace, pod))
        .collect();
    let conditions = deployment
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut conditions = conditions.filter(|it| it.type_ == "ReplicaFailure" && it.status == "True");
    let object = format!("Deployment {namespace}/{}", deployment.name_any());
    if let Some(failure) = conditions.next() {
        found.push(Problem {
            object,
            what: failure.message.clone().unwrap_or_default(),
            next: format!("see kubectl -n {namespace} describe replicaset"),
        });
    } else if pods.is_empty() {
        found.push(Problem {
            object,
            what: "no pod has been made yet".to_owned(),
            next: "if that stays so, see whether kube-controller-manager runs".to_owned(),
        });
    }
    found
}

fn of_pod(namespace: &str, pod: &Pod) -> Option<Problem> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    let problem = |(what, next): (String, String)| Problem {
        object: format!("Pod {namespace}/{name}"),
        what,
        next,
    };
    if let Some(why) = unschedulable(status) {
        let next =
            "give the nodes room, or change controller.resources or controller.nodeSelector with --set";
        return Some(problem((why, next.to_owned())));
    }
    let statuses = || status.container_statuses.iter().flatten();
    if let Some(found) = statuses().find_map(|container| of_container(namespace, &name, container)) {
        return Some(problem(found));
    }
    let running = statuses().any(|it| it.state.as_ref().is_some_and(|state| state.running.is_some()));
    let ready = statuses().all(|it| it.ready);
    match (running, ready) {
        (true, true) => None,
        (true, false) => Some(problem((
            "it runs and is not ready yet".to_owned(),
            format!("see kubectl -n {namespace} logs {name}"),
        ))),
        (false, _) => Some(problem((
            "it is starting".to_owned(),
            format!("see kubectl -n {namespace} describe pod {name}"),
        ))),
    }
}

fn unschedulable(status: &PodStatus) -> Option<String> {
    let conditions = status.conditions.iter().flatten();
    let mut unscheduled = conditions.filter(|it| it.type_ == "PodScheduled" && it.status == "False");
    let message = unscheduled.next()?.message.clone();
    Some(format!("no node takes it: {}", message.unwrap_or_default()))
}

fn of_container(namespace: &str, pod: &str, container: &ContainerStatus) -> Option<(String, String)> {
    let state = container.state.as_ref()?;
    let logs = format!("see kubectl -n {namespace} logs {pod} --previous");
    if let Some(ended) = &state.terminated {
        return Some((format!("it ended with status {}", ended.exit_code), logs));
    }
    let waiting = state.waiting.as_ref()?;
    let message = waiting.message.as_deref().unwrap_or_default();
    match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => Some((
            format!("image {} cannot be pulled: {message}", container.image),
            "load it on the nodes, or say where it is with --registry and --image-tag".to_owned(),
        )),
        "CrashLoopBackOff" => {
            let last = container
                .last_state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            let code = last.map_or_else(String::new, |last| format!(" with status {}", last.exit_code));
            Some((format!("it ends again and again{code}"), logs))
        }
        "ContainerCreating" | "PodInitializing" => None,
        reason => Some((
            format!("{reason}: {message}"),
            format!("see kubectl -n {namespace} describe pod {pod}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(status: Value) -> Deployment {
        let object = json!({
            "metadata": { "name": "weir-controller", "generation": 2 },
            "spec": { "replicas": 2, "selector": {}, "template": {} },
            "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": status })).unwrap()
    }

    fn waiting(reason: &str) -> Pod {
        let state = json!({ "waiting": { "reason": reason, "message": "because" } });
        pod(json!({ "containerStatuses": [container(state, false)] }))
    }

    fn container(state: Value, ready: bool) -> Value {
        let image = "weir-controller:0.1.0";
        json!({ "name": "c", "image": image, "imageID": "", "restartCount": 0, "ready": ready, "state": state })
    }

    fn only(pods: &[Pod]) -> Problem {
        let mut found = problems("ns", &deployment(json!({})), pods);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn a_rollout_is_done_when_only_new_pods_are_left() {
        let status = |observed: i64, updated: i32, available: i32, all: i32| {
            let status = json!({
                "observedGeneration": observed,
                "updatedReplicas": updated,
                "availableReplicas": available,
                "replicas": all,
            });
            rolled_out(&deployment(status))
        };
        assert!(status(2, 2, 2, 2));
        assert!(!status(1, 2, 2, 2));
        assert!(!status(2, 1, 2, 3));
        assert!(!status(2, 2, 1, 2));
        assert!(!status(2, 2, 2, 3));
    }

    #[test]
    fn pull_errors_name_the_image_and_the_flag() {
        let problem = only(&[waiting("ImagePullBackOff")]);
        assert_eq!(problem.object, "Pod ns/p");
        assert_eq!(
            problem.what,
            "image weir-controller:0.1.0 cannot be pulled: because"
        );
        assert!(problem.next.contains("--registry"));
    }

    #[test]
    fn pods_without_a_node_say_why() {
        let condition = json!({ "type": "PodScheduled", "status": "False", "message": "0/1 nodes" });
        let problem = only(&[pod(json!({ "conditions": [condition] }))]);
        assert_eq!(problem.what, "no node takes it: 0/1 nodes");
    }

    #[test]
    fn crashes_point_to_the_log() {
        assert!(
            only(&[waiting("CrashLoopBackOff")])
                .next
                .contains("logs p --previous")
        );
        let ended = json!({ "terminated": { "exitCode": 2 } });
        let problem = only(&[pod(json!({ "containerStatuses": [container(ended, false)] }))]);
        assert_eq!(problem.what, "it ended with status 2");
    }

    #[test]
    fn other_reasons_are_passed_on() {
        assert_eq!(
            only(&[waiting("CreateContainerConfigError")]).what,
            "CreateContainerConfigError: because"
        );
        assert_eq!(only(&[waiting("ContainerCreating")]).what, "it is starting");
        let running = json!({ "running": {} });
        let unready = pod(json!({ "containerStatuses": [container(running.clone(), false)] }));
        assert_eq!(only(&[unready]).what, "it runs and is not ready yet");
        let ready = pod(json!({ "containerStatuses": [container(running, true)] }));
        assert_eq!(problems("ns", &deployment(json!({})), &[ready]), []);
    }

    #[test]
    fn pods_that_are_not_made_have_a_reason() {
        let condition = json!({ "type": "ReplicaFailure", "status": "True", "message": "exceeded quota" });
        let failed = deployment(json!({ "conditions": [condition] }));
        assert_eq!(problems("ns", &failed, &[])[0].what, "exceeded quota");
        assert_eq!(only(&[]).object, "Deployment ns/weir-controller");
    }

    #[test]
    fn the_summary_counts_new_pods_only() {
        let halfway = deployment(json!({ "updatedReplicas": 1, "availableReplicas": 2 }));
        assert_eq!(summary(&halfway, &[]), "1 of 2 controllers are ready");
    }
}
