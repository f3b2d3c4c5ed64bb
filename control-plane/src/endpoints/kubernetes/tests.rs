mod server;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};
use tokio::{
    sync::watch as latest,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use self::server::{Mood, Server};
use super::*;
use crate::spec::ObjectName;

const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    server: Arc<Server>,
    client: Client,
    registry: Registry,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    async fn start() -> Self {
        let stop = CancellationToken::new();
        let (server, client) = Server::start(&stop).await;
        Self {
            server,
            client,
            registry: Registry::default(),
            stop,
        }
    }

    /// The provider, when it knows the cluster.
    async fn watched(&mut self) -> Kubernetes {
        let options = KubernetesOptions {
            mesh_name: "osm".to_owned(),
            namespace: "weir-system".to_owned(),
            metrics: KubernetesMetrics::register(&mut self.registry),
        };
        let watched = Kubernetes::start(self.client.clone(), options, &self.stop);
        assert!(timeout(PATIENCE, watched.synced()).await.expect("in time"));
        watched
    }

    /// The value of a line of the metrics.
    fn metric(&self, line: &str) -> f64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let found = text
            .lines()
            .find_map(|it| it.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in {text}"))
    }
}

fn namespace(name: &str, label: &str) -> Value {
    json!({ "metadata": { "name": name, "labels": { "a": label, "openservicemesh.io/monitored-by": "osm" } } })
}

fn route(ports: Value) -> Value {
    json!({ "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "TCPRoute",
        "metadata": { "name": "r", "namespace": "n", "uid": "u", "generation": 1 }, "spec": { "matches": { "ports": ports } } })
}

fn names(objects: &Objects) -> Vec<String> {
    objects
        .namespaces
        .keys()
        .map(|name| name.name.to_string())
        .collect()
}

fn ports(objects: &Objects) -> Option<Vec<u16>> {
    let route = objects.tcp_routes.get(&ObjectName::new("n", "r"))?;
    Some(route.value.spec.matches.ports.clone())
}

async fn until(objects: &mut latest::Receiver<Arc<Objects>>, wanted: impl Fn(&Objects) -> bool) {
    let seen = timeout(PATIENCE, objects.wait_for(|objects| wanted(objects))).await;
    drop(seen.expect("in time").expect("provider lives"));
}

async fn count(counter: &std::sync::atomic::AtomicUsize, atleast: usize) {
    let reached = async {
        while counter.load(Ordering::Relaxed) < atleast {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("in time");
}

#[tokio::test]
async fn lists_in_pages_and_follows() {
    let mut cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.server.put("namespaces", namespace(name, "1"), false);
    }
    let watched = cluster.watched().await;
    let mut objects = watched.objects();
    assert_eq!(names(&objects.borrow_and_update()), ["a", "b", "c", "d", "e"]);
    cluster.server.put("namespaces", namespace("f", "1"), false);
    cluster.server.delete("namespaces", "a", false);
    until(&mut objects, |it| names(it) == ["b", "c", "d", "e", "f"]).await;

    // What changes nothing wakes nobody: the next that is seen has both.
    let before = objects.borrow_and_update().clone();
    cluster.server.put("namespaces", namespace("b", "1"), false);
    cluster.server.put("namespaces", namespace("c", "2"), false);
    timeout(PATIENCE, objects.changed())
        .await
        .expect("in time")
        .unwrap();
    let after = objects.borrow_and_update().clone();
    let (b, c) = (ObjectName::new("", "b"), ObjectName::new("", "c"));
    assert!(Arc::ptr_eq(
        before.namespaces.get(&b).unwrap(),
        after.namespaces.get(&b).unwrap()
    ));
    assert!(!Arc::ptr_eq(
        before.namespaces.get(&c).unwrap(),
        after.namespaces.get(&c).unwrap()
    ));
    assert!(
        before.services.is_same(&after.services),
        "a table that did not change is shared"
    );
    assert_eq!(cluster.metric("osm_resource_namespace_count"), 5.0);
    assert_eq!(
        cluster.metric("osm_k8s_api_event_count{type=\"namespace-updated\",namespace=\"\"}"),
        1.0
    );
    assert_eq!(
        cluster.metric("weir_k8s_state_age_seconds{kind=\"Namespace\"}"),
        0.0
    );
}

#[tokio::test]
async fn changes_without_pause_are_published_all_the_same() {
    let mut cluster = Cluster::start().await;
    let watched = cluster.watched().await;
    let mut objects = watched.objects();
    objects.mark_unchanged();
    let changes = async {
        for version in 0_u64.. {
            cluster
                .server
                .put("namespaces", namespace("a", &version.to_string()), false);
            tokio::time::sleep(PAUSE / 10).await;
        }
    };
    let seen = async {
        for _ in 0..3 {
            objects.changed().await.unwrap();
        }
    };
    tokio::select! {
        () = changes => {}
        seen = timeout(PATIENCE, seen) => seen.expect("in time"),
    }
}

#[tokio::test]
async fn what_was_missed_is_found_by_a_new_list() {
    let mut cluster = Cluster::start().await;
    cluster.server.put("namespaces", namespace("stays", "1"), false);
    cluster.server.put("namespaces", namespace("goes", "1"), false);
    let watched = cluster.watched().await;
    let mut objects = watched.objects();
    let before = objects.borrow_and_update().clone();

    cluster.server.forget("namespaces");
    cluster.server.delete("namespaces", "goes", true);
    cluster.server.put("namespaces", namespace("comes", "1"), true);
    cluster.server.sever();
    until(&mut objects, |it| names(it) == ["comes", "stays"]).await;
    let stays = ObjectName::new("", "stays");
    assert!(Arc::ptr_eq(
        before.namespaces.get(&stays).unwrap(),
        objects.borrow().namespaces.get(&stays).unwrap()
    ));
    cluster.server.put("namespaces", namespace("then", "1"), false);
    until(&mut objects, |it| names(it) == ["comes", "stays", "then"]).await;
}

#[tokio::test]
async fn refusals_and_outages_leave_the_last_state() {
    let mut cluster = Cluster::start().await;
    cluster.server.put("namespaces", namespace("a", "1"), false);
    let watched = cluster.watched().await;
    let mut objects = watched.objects();
    for (mood, next) in [(Mood::Busy, "b"), (Mood::Away, "c")] {
        let (refused, before) = (
            cluster.server.refused.load(Ordering::Relaxed),
            names(&objects.borrow()),
        );
        cluster.server.be(mood);
        count(&cluster.server.refused, refused + 2 * KINDS.len()).await;
        assert_eq!(names(&objects.borrow_and_update()), before);
        if mood == Mood::Away {
            assert!(cluster.metric("weir_k8s_state_age_seconds{kind=\"Namespace\"}") > 0.0);
        }
        cluster.server.forget("namespaces");
        cluster.server.put("namespaces", namespace(next, "1"), true);
        cluster.server.be(Mood::Well);
        until(&mut objects, |it| names(it).contains(&next.to_owned())).await;
        assert_eq!(
            cluster.metric("weir_k8s_state_age_seconds{kind=\"Namespace\"}"),
            0.0
        );
    }
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_not_begun_without_pause() {
    let mut cluster = Cluster::start().await;
    let _watched = cluster.watched().await;
    count(&cluster.server.begun, KINDS.len()).await;
    let (from, started) = (cluster.server.begun.load(Ordering::Relaxed), Instant::now());
    cluster.server.be(Mood::Fickle);
    count(&cluster.server.begun, from + 3 * KINDS.len()).await;
    assert!(
        started.elapsed() > Duration::from_millis(1500),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_definition_that_is_missing_is_waited_for() {
    let mut cluster = Cluster::start().await;
    cluster.server.define("tcproutes", false);
    let watched = cluster.watched().await;
    let mut objects = watched.objects();
    assert_eq!(
        objects.borrow_and_update().missing.iter().collect::<Vec<_>>(),
        [&"TCPRoute"]
    );
    cluster.server.put("tcproutes", route(json!([80])), true);
    cluster.server.define("tcproutes", true);
    until(&mut objects, |it| {
        ports(it) == Some(vec![80]) && it.missing.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_malformed_object_leaves_its_last_good_version_and_the_others() {
    let mut cluster = Cluster::start().await;
    let service = |name: &str, ports: Value| json!({ "metadata": { "name": name, "namespace": "n" }, "spec": { "ports": ports } });
    cluster
        .server
        .put("services", service("bad", json!("none")), false);
    cluster.server.put("services", service("good", json!([])), false);
    cluster.server.put("tcproutes", route(json!([80])), false);
    let watched = cluster.watched().await;
    let mut objects = watched.objects();
    {
        let first = objects.borrow_and_update();
        assert_eq!(
            first.services.keys().map(ToString::to_string).collect::<Vec<_>>(),
            ["n/good"]
        );
        let found: Vec<String> = first.diagnostics.iter().map(ToString::to_string).collect();
        assert!(
            found.len() == 1 && found[0].starts_with("error: Service n/bad: spec.ports: "),
            "{found:?}"
        );
    }
    cluster.server.put("tcproutes", route(json!([0])), false);
    until(&mut objects, |it| it.diagnostics.len() == 2).await;
    assert_eq!(ports(&objects.borrow()), Some(vec![80]));

    // Another object of that name does not inherit from it.
    let mut other = route(json!([0]));
    other["metadata"]["uid"] = "another".into();
    cluster.server.forget("tcproutes");
    cluster.server.put("tcproutes", other, true);
    cluster.server.sever();
    until(&mut objects, |it| ports(it).is_none()).await;
    cluster.server.put("tcproutes", route(json!([81])), false);
    until(&mut objects, |it| {
        ports(it) == Some(vec![81]) && it.diagnostics.len() == 1
    })
    .await;
    let revision = objects.borrow().policies.values().next().unwrap().clone();
    assert_eq!((revision.generation, revision.plural), (1, "tcproutes"));
}

#[tokio::test]
async fn is_read_whole_at_once() {
    let cluster = Cluster::start().await;
    cluster.server.define("egresses", false);
    let pod = json!({ "metadata": { "name": "p", "namespace": "n", "labels": { "app": "a" } },
        "spec": { "containers": [{ "name": "app", "image": "i" }] } });
    cluster.server.put("pods", pod, false);
    for name in ["a", "b", "c"] {
        cluster.server.put("namespaces", namespace(name, "1"), false);
    }
    let objects = list(&cluster.client).await.unwrap();
    assert_eq!(names(&objects), ["a", "b", "c"]);
    let pod = &objects.pods.get(&ObjectName::new("n", "p")).unwrap().value;
    assert_eq!(
        pod.spec.as_ref().unwrap().containers[0].image.as_deref(),
        Some("i")
    );
    assert!(objects.missing.contains("Egress"));

    cluster.server.define("services", false);
    let error = list(&cluster.client).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot list Service: "), "{error}");
}

#[test]
fn of_a_pod_no_more_is_kept_than_is_read() {
    let container = |name: &str, port: u16| {
        json!({ "name": name, "image": "i", "env": [{ "name": "A", "value": "b" }],
        "ports": [{ "containerPort": port }] })
    };
    let pod = |version: &str, seen: &str| -> Value {
        json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u", "resourceVersion": version,
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}", "openservicemesh.io/x": "y" },
            "labels": { "app": "a", "pod-template-hash": "h" }, "managedFields": [{ "manager": seen }] },
            "spec": { "nodeName": "node", "serviceAccountName": "a",
                "containers": [container("app", 80)], "initContainers": [container("weir-proxy", 15003)] },
            "status": { "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }],
                "conditions": [{ "type": "Ready", "status": seen }] } })
    };
    let read = |value: Value| {
        let item: item::Item = serde_json::from_value(value).unwrap();
        let kind = KINDS.iter().find(|kind| kind.name == "Pod").unwrap();
        item.read(kind, false).object.unwrap()
    };
    let mut objects = Objects::default();
    assert!(objects.insert(ObjectName::new("n", "p"), read(pod("1", "True"))));
    assert!(
        !objects.insert(ObjectName::new("n", "p"), read(pod("2", "False"))),
        "it is the same to us"
    );
    let kept = &objects.pods.get(&ObjectName::new("n", "p")).unwrap().value;
    let spec = kept.spec.as_ref().unwrap();
    assert!(spec::has_sidecar(kept) && spec.containers.is_empty() && spec.node_name.is_none());
    assert_eq!(kept.metadata.labels.as_ref().unwrap().len(), 1);
    assert_eq!(kept.metadata.annotations.as_ref().unwrap().len(), 1);
}
