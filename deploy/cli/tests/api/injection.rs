//! Pods on their way through the API server and the injector.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::{Outcome, Tests, pods::pod, space::Space, world::World};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.beside(
        "injection::pods_of_every_workload_get_the_sidecar_first",
        workloads,
    );
    tests.beside("injection::the_sidecar_has_no_rights", rights);
    tests.beside("injection::probes_go_through_the_sidecar", probes);
    tests.beside("injection::labels_and_annotations_decide", decisions);
    tests.beside("injection::annotations_are_heeded_or_refused", annotations);
    tests.beside("injection::a_dry_run_is_answered_like_any_other", dry_run);
}

fn spec(pod: &Pod) -> anyhow::Result<&PodSpec> {
    pod.spec.as_ref().context("no spec")
}

fn names(containers: Option<&Vec<Container>>) -> Vec<&str> {
    containers
        .into_iter()
        .flatten()
        .map(|it| it.name.as_str())
        .collect()
}

fn find<'a>(pod: &'a Pod, name: &str) -> anyhow::Result<&'a Container> {
    let spec = spec(pod)?;
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.find(|it| it.name == name)
        .with_context(|| format!("no container {name}"))
}

/// A pod as a workload's controller makes it.
fn owned(kind: &str, version: &str, owner: &str, spec: Value) -> Value {
    let owner = json!({"apiVersion": version, "kind": kind, "name": owner, "controller": true,
        "uid": "6f1b5a9e-0000-4000-8000-000000000000"});
    json!({"metadata": {"generateName": "web-", "ownerReferences": [owner]}, "spec": spec})
}

async fn workloads(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "workloads", &["web"]).await?;
    let app = json!({"serviceAccountName": "web", "containers": [{"name": "app", "image": "app"}]});
    let several = json!({"serviceAccountName": "web",
        "initContainers": [
            {"name": "migrate", "image": "app"},
            {"name": "logger", "image": "app", "restartPolicy": "Always"}],
        "containers": [{"name": "app", "image": "app"}, {"name": "metrics", "image": "app"}]});
    let mut once = app.clone();
    once["restartPolicy"] = json!("Never");
    let cases = [
        (
            "ReplicaSet",
            "apps/v1",
            "web-5d4f8c7b9",
            ("Deployment", "web"),
            app.clone(),
        ),
        (
            "StatefulSet",
            "apps/v1",
            "web",
            ("StatefulSet", "web"),
            app.clone(),
        ),
        ("DaemonSet", "apps/v1", "web", ("DaemonSet", "web"), app),
        ("Job", "batch/v1", "web", ("Job", "web"), once),
        (
            "ReplicaSet",
            "apps/v1",
            "web-5d4f8c7b9",
            ("Deployment", "web"),
            several,
        ),
    ];
    for (kind, version, owner, (workload, named), before) in cases {
        let mut request = owned(kind, version, owner, before.clone());
        if kind == "ReplicaSet" {
            request["metadata"]["labels"] = json!({"pod-template-hash": "5d4f8c7b9"});
        }
        let pod = space.create_pod(request).await.with_context(|| kind.to_owned())?;
        let after = spec(&pod)?;
        let list = |list: &Value| -> Vec<String> {
            let items = list.as_array().into_iter().flatten();
            items
                .filter_map(|it| Some(it["name"].as_str()?.to_owned()))
                .collect()
        };
        let mut inits = vec!["weir-init".to_owned(), "weir-proxy".to_owned()];
        inits.extend(list(&before["initContainers"]));
        ensure!(
            names(after.init_containers.as_ref()) == inits
                && names(Some(&after.containers)) == list(&before["containers"]),
            "{kind}: {:?} and {:?}",
            names(after.init_containers.as_ref()),
            names(Some(&after.containers))
        );
        let proxy = find(&pod, "weir-proxy")?;
        ensure!(
            proxy.restart_policy.as_deref() == Some("Always"),
            "{kind}: no native sidecar"
        );
        ensure!(
            proxy.startup_probe.is_some(),
            "{kind}: nothing says when the proxy has started"
        );
        let value = |name: &str| {
            let env = proxy.env.iter().flatten().find(|it| it.name == name);
            env.and_then(|it| it.value.as_deref())
        };
        ensure!(
            (value("WORKLOAD_KIND"), value("WORKLOAD_NAME")) == (Some(workload), Some(named)),
            "{kind}: {:?}",
            proxy.env
        );
    }
    Ok(())
}

async fn rights(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "rights", &["web"]).await?;
    let pod = space.create_pod(pod("web", "web")).await?;
    let security = |name: &str| {
        find(&pod, name)?
            .security_context
            .clone()
            .context("no securityContext")
    };
    let (proxy, init) = (security("weir-proxy")?, security("weir-init")?);
    let capabilities = |of: &k8s_openapi::api::core::v1::SecurityContext| {
        let capabilities = of.capabilities.clone().unwrap_or_default();
        (
            capabilities.add.unwrap_or_default(),
            capabilities.drop.unwrap_or_default(),
        )
    };
    ensure!(proxy.run_as_non_root == Some(true) && proxy.run_as_user == Some(1500));
    ensure!(proxy.read_only_root_filesystem == Some(true));
    ensure!(proxy.allow_privilege_escalation == Some(false) && proxy.privileged != Some(true));
    ensure!(
        proxy
            .seccomp_profile
            .is_some_and(|it| it.type_ == "RuntimeDefault")
    );
    let nothing: (Vec<String>, Vec<String>) = (vec![], vec!["ALL".to_owned()]);
    ensure!(
        find(&pod, "weir-proxy")?
            .security_context
            .as_ref()
            .map(capabilities)
            == Some(nothing)
    );
    let (added, dropped) = capabilities(&init);
    ensure!(
        added.contains(&"NET_ADMIN".to_owned()) && dropped == ["ALL"],
        "{added:?}"
    );

    // The token is the pod's own, for the controller alone; there is no Secret.
    let volumes = spec(&pod)?.volumes.iter().flatten();
    let token = volumes
        .flat_map(|it| it.projected.iter().flat_map(|it| it.sources.iter().flatten()))
        .find_map(|it| it.service_account_token.as_ref())
        .context("no token")?;
    ensure!(token.audience.as_deref() == Some("weir-controller"));
    ensure!(
        spec(&pod)?.volumes.iter().flatten().all(|it| it.secret.is_none()),
        "a Secret"
    );
    ensure!(spec(&pod)?.containers.iter().all(|it| {
        let mounts = it.volume_mounts.iter().flatten();
        mounts.clone().all(|mount| mount.name != "weir-token")
    }));
    Ok(())
}

async fn probes(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "probes", &["web"]).await?;
    let http = |port: Value| json!({"httpGet": {"path": "/healthz", "port": port}});
    let pod = space
        .create_pod(
            json!({"metadata": {"name": "web"}, "spec": {"serviceAccountName": "web", "containers": [
                {"name": "app", "image": "app", "ports": [{"name": "web", "containerPort": 8080}],
                 "livenessProbe": http(json!("web")), "readinessProbe": http(json!(8080)),
                 "startupProbe": {"tcpSocket": {"port": 8080}}},
                {"name": "grpc", "image": "app", "livenessProbe": {"grpc": {"port": 9000}}},
            ]}}),
        )
        .await?;
    let app = find(&pod, "app")?;
    let get = |probe: &Option<k8s_openapi::api::core::v1::Probe>| -> anyhow::Result<Value> {
        let probe = probe.as_ref().and_then(|it| it.http_get.as_ref());
        Ok(serde_json::to_value(probe.context("no httpGet")?)?)
    };
    ensure!(
        get(&app.liveness_probe)?["port"] == 15901,
        "{:?}",
        app.liveness_probe
    );
    ensure!(
        get(&app.readiness_probe)?["port"] == 15902,
        "{:?}",
        app.readiness_probe
    );
    // The sidecar accepts every connection: it must dial the application itself.
    let startup = get(&app.startup_probe)?;
    ensure!(
        startup["httpHeaders"][0]["value"] == "8080" && startup["port"] == 15904,
        "{startup}"
    );
    let grpc = find(&pod, "grpc")?
        .liveness_probe
        .as_ref()
        .and_then(|it| it.grpc.as_ref());
    ensure!(grpc.is_some_and(|it| it.port != 9000), "{grpc:?}");
    Ok(())
}

fn annotated(name: &str, annotations: Value) -> Value {
    let mut pod = pod(name, "web");
    pod["metadata"]["annotations"] = annotations;
    pod
}

fn is_injected(pod: &Pod) -> bool {
    find(pod, "weir-proxy").is_ok()
}

async fn decisions(world: Arc<World>) -> Outcome {
    const INJECTION: &str = "openservicemesh.io/sidecar-injection";
    let namespace = |name: &str, label: Value, annotation: Value| json!({"name": name, "labels": label, "annotations": annotation});
    let mesh = json!({"openservicemesh.io/monitored-by": "osm"});
    let spaces = [
        // Whether a pod that says nothing, yes or no gets one.
        (
            namespace("decide-in", mesh.clone(), json!({INJECTION: "enabled"})),
            [true, true, false],
        ),
        (
            namespace("decide-label", mesh.clone(), json!({})),
            [false, true, false],
        ),
        (
            namespace("decide-no", mesh.clone(), json!({INJECTION: "disabled"})),
            [false, true, false],
        ),
        (
            namespace(
                "decide-other",
                json!({"openservicemesh.io/monitored-by": "other"}),
                json!({INJECTION: "enabled"}),
            ),
            [false; 3],
        ),
        (
            namespace("decide-out", json!({}), json!({INJECTION: "enabled"})),
            [false; 3],
        ),
        (
            namespace(
                "decide-ignored",
                json!({"openservicemesh.io/monitored-by": "osm", "openservicemesh.io/ignore": "true"}),
                json!({INJECTION: "enabled"}),
            ),
            [false; 3],
        ),
    ];
    for (metadata, wanted) in spaces {
        let what = metadata["name"].to_string();
        let space = Space::with(&world, metadata, &["web"]).await?;
        let pods = [
            ("silent", json!({})),
            ("yes", json!({INJECTION: "enabled"})),
            ("no", json!({INJECTION: "disabled"})),
        ];
        for ((name, annotation), wanted) in pods.into_iter().zip(wanted) {
            let pod = space.create_pod(annotated(name, annotation)).await?;
            ensure!(
                is_injected(&pod) == wanted,
                "{what}: {name} is {}injected",
                if wanted { "not " } else { "" }
            );
        }
    }
    let space = Space::open(&world, "decide-host", &["web"]).await?;
    let mut host = pod("host", "web");
    host["spec"]["hostNetwork"] = json!(true);
    host["spec"]["containers"][0]["ports"] = json!([]);
    ensure!(
        !is_injected(&space.create_pod(host).await?),
        "the node's network is redirected"
    );
    Ok(())
}

async fn annotations(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "annotations", &["web"]).await?;
    let classic = annotated(
        "classic",
        json!({"openservicemesh.io/native-sidecar": "disabled"}),
    );
    let classic = space.create_pod(classic).await?;
    ensure!(names(Some(&spec(&classic)?.containers)) == ["weir-proxy", "app"]);
    ensure!(names(spec(&classic)?.init_containers.as_ref()) == ["weir-init"]);
    let excluded = annotated(
        "excluded",
        json!({"openservicemesh.io/outbound-port-exclusion-list": "6379,3306",
               "openservicemesh.io/outbound-ip-range-exclusion-list": "10.0.0.0/8"}),
    );
    let excluded = space.create_pod(excluded).await?;
    let arguments = find(&excluded, "weir-init")?
        .args
        .clone()
        .unwrap_or_default()
        .join(" ");
    ensure!(
        arguments.contains("6379") && arguments.contains("3306") && arguments.contains("10.0.0.0/8"),
        "{arguments}"
    );
    for (annotation, value) in [
        ("openservicemesh.io/sidecar-injection", "perhaps"),
        ("openservicemesh.io/outbound-port-exclusion-list", "http"),
        ("openservicemesh.io/inbound-port-exclusion-list", "70000"),
        (
            "openservicemesh.io/outbound-ip-range-exclusion-list",
            "10.0.0.0/99",
        ),
        ("openservicemesh.io/log-level", "loud"),
    ] {
        let refused = space
            .create_pod(annotated("wrong", json!({annotation: value})))
            .await;
        let Err(kube::Error::Api(status)) = refused else {
            anyhow::bail!("{annotation}: {value} is taken");
        };
        let says = |text: &str| status.message.contains(text);
        ensure!(
            says("weir-inject.k8s.io") && says(annotation),
            "{}",
            status.message
        );
    }
    let mut taken = pod("taken", "web");
    taken["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15001}]);
    let Err(kube::Error::Api(status)) = space.create_pod(taken).await else {
        anyhow::bail!("a port of the sidecar is taken");
    };
    ensure!(status.message.contains("15001"), "{}", status.message);
    Ok(())
}

async fn dry_run(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "dry-run", &["web"]).await?;
    let api = Api::<Pod>::namespaced(space.client(), &space.name);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let shown = api
        .create(&dry, &serde_json::from_value(pod("web", "web"))?)
        .await?;
    ensure!(is_injected(&shown), "a dry run is not injected");
    ensure!(api.get_opt("web").await?.is_none(), "a dry run created a pod");
    let real = space.create_pod(pod("web", "web")).await?;
    let arguments = |pod: &Pod| anyhow::Ok(find(pod, "weir-proxy")?.args.clone());
    ensure!(
        arguments(&shown)? == arguments(&real)?,
        "a dry run shows something else"
    );
    Ok(())
}
