use super::*;

fn manifests(image: &str, replicas: i32) -> Manifests {
    let deployment = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web", "namespace": "n"},
        "spec": {"replicas": replicas, "selector": {}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image}]}}},
    }))
    .unwrap();
    let mut all = Manifests::default();
    all.deployments.insert(("n".into(), "web".into()), deployment);
    all
}

/// Applies the steps; new pods are ready when `ready` says so.
fn apply(pods: &mut Vec<Observed>, steps: Vec<Step>, ready: bool) -> (usize, usize) {
    let (mut created, mut ended) = (0, 0);
    for step in steps {
        match step {
            Step::Create { owner, pod } => {
                created += 1;
                pods.push(Observed {
                    owner,
                    name: pod.metadata.name.unwrap(),
                    ready,
                    terminating: false,
                    ended: false,
                    failed: false,
                });
            }
            Step::End { name, .. } => {
                ended += 1;
                pods.retain(|pod| pod.name != name);
            }
        }
    }
    (created, ended)
}

fn names() -> impl FnMut() -> String {
    let mut next = 0;
    move || {
        next += 1;
        format!("{next}")
    }
}

#[test]
fn a_rollout_keeps_the_old_pod_until_the_new_one_is_ready() {
    let (mut pods, mut name) = (Vec::new(), names());
    assert_eq!(
        apply(&mut pods, reconcile(&manifests("a", 1), &[], &mut name), true),
        (1, 0)
    );
    let next = manifests("b", 1);
    let steps = reconcile(&next, &pods, &mut name);
    assert_eq!(apply(&mut pods, steps, false), (1, 0));
    assert_eq!(reconcile(&next, &pods, &mut name), vec![]);
    pods[1].ready = true;
    let steps = reconcile(&next, &pods, &mut name);
    assert_eq!(apply(&mut pods, steps, true), (0, 1));
    assert_eq!(reconcile(&next, &pods, &mut name), vec![]);
}

#[test]
fn scaling_down_and_deleting_end_pods() {
    let (mut pods, mut name) = (Vec::new(), names());
    apply(&mut pods, reconcile(&manifests("a", 3), &[], &mut name), true);
    assert_eq!(pods.len(), 3);
    let steps = reconcile(&manifests("a", 1), &pods, &mut name);
    assert_eq!(apply(&mut pods, steps, true), (0, 2));
    let steps = reconcile(&Manifests::default(), &pods, &mut name);
    assert_eq!(apply(&mut pods, steps, true), (0, 1));
}

#[test]
fn a_pod_of_a_deployment_belongs_to_its_replica_set() {
    let steps = reconcile(&manifests("a", 1), &[], &mut names());
    let Step::Create { pod, owner } = &steps[0] else {
        panic!("no pod")
    };
    let reference = &pod.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (reference.kind.as_str(), &reference.name),
        ("ReplicaSet", &format!("web-{}", owner.version))
    );
    assert_eq!(
        pod.metadata.labels.as_ref().unwrap()["pod-template-hash"],
        owner.version
    );
}

#[test]
fn stateful_pods_start_in_order() {
    let set = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "db", "namespace": "n"},
        "spec": {"replicas": 2, "selector": {}, "serviceName": "db", "template": {"spec": {"containers": []}}},
    }))
    .unwrap();
    let mut all = Manifests::default();
    all.stateful_sets.insert(("n".into(), "db".into()), set);
    let (mut pods, mut name) = (Vec::new(), names());
    let steps = reconcile(&all, &pods, &mut name);
    assert_eq!(apply(&mut pods, steps, false), (1, 0));
    assert_eq!(reconcile(&all, &pods, &mut name), vec![]);
    pods[0].ready = true;
    let steps = reconcile(&all, &pods, &mut name);
    assert_eq!(apply(&mut pods, steps, true), (1, 0));
    assert_eq!(pods[1].name, "db-1");
}
