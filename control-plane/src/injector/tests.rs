use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::*;
use crate::spec::PROXY_CONTAINER;

fn namespace() -> NamespaceMeta {
    let pair =
        |key: &str, value: &str| BTreeMap::from([(format!("openservicemesh.io/{key}"), value.to_owned())]);
    let mut annotations = pair("sidecar-injection", "enabled");
    annotations.extend(pair("metrics", "enabled"));
    NamespaceMeta {
        name: "shop".to_owned(),
        labels: pair("monitored-by", "osm"),
        annotations,
    }
}

fn pod(annotations: Value, container: Value) -> Pod {
    let mut base = json!({ "name": "app", "ports": [{ "name": "http", "containerPort": 8080 }] });
    base.as_object_mut()
        .unwrap()
        .extend(container.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "metadata": { "generateName": "shop-1234-", "annotations": annotations },
        "spec": { "serviceAccountName": "shop", "containers": [base], "initContainers": [{ "name": "migrate" }] },
    }))
    .unwrap()
}

fn injected(annotations: Value, container: Value) -> Pod {
    inject(pod(annotations, container), &namespace(), &Settings::default()).unwrap()
}

fn names(containers: Option<&Vec<Container>>) -> Vec<&str> {
    containers
        .into_iter()
        .flatten()
        .map(|container| container.name.as_str())
        .collect()
}

fn bootstrap(pod: &Pod) -> Value {
    let spec = pod.spec.as_ref().unwrap();
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let proxy = all.find(|container| container.name == PROXY_CONTAINER).unwrap();
    let text = proxy.args.as_ref().unwrap().last().unwrap();
    serde_json::from_str(&text.replace("$$", "$")).unwrap()
}

#[test]
fn the_sidecar_starts_before_everything_but_the_redirect() {
    let pod = injected(json!({}), json!({}));
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(
        names(spec.init_containers.as_ref()),
        ["weir-init", "weir-proxy", "migrate"]
    );
    assert_eq!(names(Some(&spec.containers)), ["app"]);
    let proxy = &spec.init_containers.as_ref().unwrap()[1];
    assert_eq!(proxy.restart_policy.as_deref(), Some("Always"));
    let security = proxy.security_context.as_ref().unwrap();
    assert_eq!(security.run_as_user, Some(1500));
    assert_eq!(security.read_only_root_filesystem, Some(true));
}

#[test]
fn the_classic_layout_is_an_annotation_away() {
    let pod = injected(
        json!({ "openservicemesh.io/native-sidecar": "disabled" }),
        json!({}),
    );
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(names(spec.init_containers.as_ref()), ["migrate", "weir-init"]);
    assert_eq!(names(Some(&spec.containers)), ["weir-proxy", "app"]);
    assert_eq!(spec.containers[0].restart_policy, None);
}

#[test]
fn injecting_twice_is_injecting_once() {
    let once = injected(
        json!({}),
        json!({ "readinessProbe": { "httpGet": { "port": "http" } } }),
    );
    let twice = inject(once.clone(), &namespace(), &Settings::default()).unwrap();
    assert_eq!(once, twice);
}

#[test]
fn annotations_decide_as_in_osm() {
    let decide_with = |on_pod: Value, change: fn(&mut NamespaceMeta)| {
        let mut namespace = namespace();
        change(&mut namespace);
        decide(&pod(on_pod, json!({})), &namespace, &Settings::default())
    };
    let injection = "openservicemesh.io/sidecar-injection";
    assert_eq!(decide_with(json!({}), |_| {}), Ok(Decision::Inject));
    assert_eq!(
        decide_with(json!({ injection: "no" }), |_| {}),
        Ok(Decision::NotWanted)
    );
    assert_eq!(
        decide_with(json!({}), |ns| ns.annotations.clear()),
        Ok(Decision::NotWanted)
    );
    assert_eq!(
        decide_with(json!({ injection: "yes" }), |ns| ns.annotations.clear()),
        Ok(Decision::Inject)
    );
    assert_eq!(
        decide_with(json!({ injection: "yes" }), |ns| ns.labels.clear()),
        Ok(Decision::OutsideMesh)
    );
    assert_eq!(
        decide_with(json!({}), |ns| ns.name = "kube-system".to_owned()),
        Ok(Decision::OutsideMesh)
    );
    assert!(decide_with(json!({ injection: "perhaps" }), |_| {}).is_err());
}

#[test]
fn a_pod_on_the_nodes_network_is_left_alone() {
    let mut pod = pod(json!({}), json!({}));
    pod.spec.as_mut().unwrap().host_network = Some(true);
    assert_eq!(inject(pod.clone(), &namespace(), &Settings::default()), Ok(pod));
}

#[test]
fn exclusions_of_the_mesh_and_of_the_pod_are_united() {
    let settings = Settings {
        exclusions: Exclusions {
            outbound_ports: vec![6379..=6379],
            ..Default::default()
        },
        ..Default::default()
    };
    let annotations = json!({
        "openservicemesh.io/outbound-port-exclusion-list": "9000-9010, 25",
        "openservicemesh.io/outbound-ip-range-exclusion-list": "169.254.169.254/32",
    });
    let pod = inject(pod(annotations, json!({})), &namespace(), &settings).unwrap();
    let args = pod.spec.unwrap().init_containers.unwrap()[0]
        .args
        .clone()
        .unwrap();
    assert!(
        args.contains(&"--exclude-outbound-ports=6379,9000-9010,25".to_owned()),
        "{args:?}"
    );
    assert!(
        args.contains(&"--exclude-outbound-cidrs=169.254.169.254/32".to_owned()),
        "{args:?}"
    );
}

#[test]
fn mesh_config_reaches_the_sidecar() {
    let spec = serde_json::from_value(json!({
        "sidecar": {
            "logLevel": "debug",
            "localProxyMode": "PodIP",
            "enablePrivilegedInitContainer": true,
            "resources": { "limits": { "memory": "64Mi" } },
        },
        "traffic": { "outboundPortExclusionList": [6379], "outboundIPRangeExclusionList": ["10.0.0.1/32"] },
    }))
    .unwrap();
    let settings = Settings::default().with_mesh_config(&spec);
    let pod = inject(pod(json!({}), json!({})), &namespace(), &settings).unwrap();
    let inits = pod.spec.unwrap().init_containers.unwrap();
    let (redirect, proxy) = (inits[0].args.as_ref().unwrap(), &inits[1]);
    let security = inits[0].security_context.as_ref().unwrap();
    assert_eq!(
        (security.privileged, security.allow_privilege_escalation),
        (Some(true), Some(true))
    );
    for wanted in [
        "--exclude-outbound-ports=6379",
        "--exclude-outbound-cidrs=10.0.0.1/32",
        "--local-proxy-mode=PodIP",
        "--pod-ip=$(POD_IPS)",
    ] {
        assert!(
            redirect.iter().any(|argument| argument == wanted),
            "{wanted}: {redirect:?}"
        );
    }
    assert!(
        proxy
            .args
            .as_ref()
            .unwrap()
            .contains(&"--log-level=debug".to_owned())
    );
    assert!(proxy.resources.as_ref().unwrap().limits.is_some());
}

#[test]
fn a_wrong_annotation_is_refused_by_name() {
    for (name, value) in [
        ("outbound-port-exclusion-list", "80,http"),
        ("inbound-port-exclusion-list", "0"),
        ("outbound-ip-range-inclusion-list", "10.0.0.0/64"),
        ("log-level", "loud"),
        ("native-sidecar", "perhaps"),
        ("sidecar-cpu-limit", "lots"),
        ("sidecar-memory-request", "-1"),
    ] {
        let annotations = json!({ format!("openservicemesh.io/{name}"): value });
        let refused = inject(pod(annotations, json!({})), &namespace(), &Settings::default());
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn an_http_probe_reaches_its_path_through_the_sidecar() {
    let probe = json!({ "httpGet": { "port": "http", "path": "/ok?x=$(y)" }, "timeoutSeconds": 3 });
    let pod = injected(json!({}), json!({ "livenessProbe": probe }));
    let get = pod.spec.as_ref().unwrap().containers[0]
        .liveness_probe
        .clone()
        .unwrap()
        .http_get
        .unwrap();
    assert_eq!(get.path.as_deref(), Some("/osm-liveness-probe/app"));
    assert_eq!(serde_json::to_value(&get.port).unwrap(), json!(15901));
    let bootstrap = bootstrap(&pod);
    let listener = &bootstrap["static_resources"]["listeners"][0];
    let manager = &listener["default_filter_chain"]["filters"][0]["typed_config"];
    let route = &manager["route_config"]["virtual_hosts"][0]["routes"][0];
    assert_eq!(route["match"], json!({ "path": "/osm-liveness-probe/app" }));
    assert_eq!(
        route["route"],
        json!({ "cluster": "probe|8080", "prefix_rewrite": "/ok?x=$(y)", "timeout": "3s" })
    );
}

#[test]
fn a_tcp_probe_dials_the_application() {
    let pod = injected(
        json!({}),
        json!({ "readinessProbe": { "tcpSocket": { "port": 3306 } } }),
    );
    let probe = pod.spec.unwrap().containers[0].readiness_probe.clone().unwrap();
    assert!(probe.tcp_socket.is_none());
    let get = serde_json::to_value(probe.http_get.unwrap()).unwrap();
    assert_eq!(get["port"], 15904);
    assert_eq!(
        get["httpHeaders"],
        json!([{ "name": "Original-Tcp-Port", "value": "3306" }])
    );
}

#[test]
fn an_https_probe_keeps_its_own_tls() {
    let probe = json!({ "httpGet": { "port": 8443, "scheme": "HTTPS", "path": "/ok" } });
    let pod = injected(json!({}), json!({ "startupProbe": probe }));
    let get = pod.spec.as_ref().unwrap().containers[0]
        .startup_probe
        .clone()
        .unwrap()
        .http_get
        .unwrap();
    assert_eq!(get.path.as_deref(), Some("/ok"));
    let chain = &bootstrap(&pod)["static_resources"]["listeners"][0]["filter_chains"][0];
    assert_eq!(chain["filters"][0]["typed_config"]["cluster"], "probe|8443");
}

#[test]
fn a_probe_of_an_unknown_port_name_is_refused() {
    let probe = json!({ "httpGet": { "port": "web" } });
    let refused = inject(
        pod(json!({}), json!({ "livenessProbe": probe })),
        &namespace(),
        &Settings::default(),
    );
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("app") && text.contains("livenessProbe") && text.contains("web"),
        "{text}"
    );
}

fn merged(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref().unwrap();
    let arguments = spec.init_containers.as_ref().unwrap()[1].args.as_ref().unwrap();
    arguments
        .iter()
        .find_map(|it| it.strip_prefix("--merge-metrics="))
        .map(str::to_owned)
}

#[test]
fn an_application_that_is_scraped_is_scraped_through_the_sidecar() {
    let scrape = |more: Value| {
        let mut all = json!({ "prometheus.io/scrape": "true" });
        all.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let pod = injected(all, json!({}));
        let port = pod
            .metadata
            .annotations
            .as_ref()
            .unwrap()
            .get("prometheus.io/port")
            .cloned();
        (merged(&pod), port)
    };
    let through = |what: &str| (Some(what.to_owned()), Some("15010".to_owned()));
    assert_eq!(
        scrape(json!({ "prometheus.io/port": "9100" })),
        through("9100/metrics")
    );
    assert_eq!(
        scrape(json!({ "prometheus.io/port": "9100", "prometheus.io/path": "a?b=$(c)" })),
        through("9100/a?b=$$(c)")
    );
    assert_eq!(scrape(json!({})), through("8080/metrics"));
    // Prometheus goes on asking the application where the sidecar could not, or does not see it.
    let stays = (None, Some("9100".to_owned()));
    for (name, value) in [
        ("prometheus.io/scheme", "https"),
        ("prometheus.io/path", "/with a space"),
        ("openservicemesh.io/inbound-port-exclusion-list", "9100"),
    ] {
        assert_eq!(
            scrape(json!({ "prometheus.io/port": "9100", name: value })),
            stays,
            "{name}"
        );
    }
}

#[test]
fn only_who_wants_metrics_is_scraped() {
    let port = |annotations: Value, namespace: &NamespaceMeta| {
        let pod = inject(pod(annotations, json!({})), namespace, &Settings::default()).unwrap();
        pod.metadata
            .annotations
            .unwrap()
            .get("prometheus.io/port")
            .cloned()
    };
    let mut quiet = namespace();
    quiet.annotations.remove("openservicemesh.io/metrics");
    assert_eq!(port(json!({}), &namespace()).as_deref(), Some("15010"));
    assert_eq!(port(json!({}), &quiet), None);
    assert_eq!(
        port(json!({ "prometheus.io/scrape": "true" }), &quiet).as_deref(),
        Some("15010")
    );
    assert_eq!(
        port(json!({ "prometheus.io/scrape": "false" }), &namespace()),
        None
    );
}

#[test]
fn a_container_added_since_gets_its_probes_through_the_sidecar() {
    let probe = json!({ "httpGet": { "port": 8080, "path": "/$(a)$$b" } });
    let mut pod = injected(json!({}), json!({ "livenessProbe": probe }));
    let before = bootstrap(&pod);
    let added = json!({ "name": "added", "livenessProbe": { "httpGet": { "port": 9000, "path": "/up" } } });
    let spec = pod.spec.as_mut().unwrap();
    spec.containers.push(serde_json::from_value(added).unwrap());
    let again = inject(pod, &namespace(), &Settings::default()).unwrap();
    let after = bootstrap(&again);
    let routes = "/static_resources/listeners/0/default_filter_chain/filters/0/typed_config/route_config/virtual_hosts/0/routes";
    let routes = after.pointer(routes).unwrap().as_array().unwrap();
    assert_eq!(routes[0]["route"]["prefix_rewrite"], "/$(a)$$b");
    assert_eq!(
        routes[1]["route"],
        json!({ "cluster": "probe|9000", "prefix_rewrite": "/up", "timeout": "1s" })
    );
    let clusters = |bootstrap: &Value| {
        bootstrap["static_resources"]["clusters"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((clusters(&before), clusters(&after)), (2, 3));
    assert_eq!(
        inject(again.clone(), &namespace(), &Settings::default()),
        Ok(again)
    );
}

#[test]
fn a_sidecar_of_somebody_else_is_left_alone() {
    let mut pod = pod(
        json!({}),
        json!({ "livenessProbe": { "httpGet": { "port": 8080 } } }),
    );
    let other = json!({ "name": PROXY_CONTAINER, "args": ["--config-yaml", "{}"] });
    pod.spec
        .as_mut()
        .unwrap()
        .containers
        .push(serde_json::from_value(other).unwrap());
    assert_eq!(inject(pod.clone(), &namespace(), &Settings::default()), Ok(pod));
}

#[test]
fn what_the_sidecar_needs_is_refused_to_others() {
    let refused = |change: fn(&mut PodSpec)| {
        let mut pod = pod(json!({}), json!({}));
        change(pod.spec.as_mut().unwrap());
        inject(pod, &namespace(), &Settings::default())
            .unwrap_err()
            .to_string()
    };
    let name = refused(|spec| spec.containers[0].name = INIT_CONTAINER.to_owned());
    assert!(name.contains("weir-init"), "{name}");
    let port = refused(|spec| spec.containers[0].ports.as_mut().unwrap()[0].container_port = 15003);
    assert!(port.contains("15003") && port.contains("app"), "{port}");
    let windows = refused(|spec| spec.os = serde_json::from_value(json!({ "name": "windows" })).unwrap());
    assert!(windows.contains("Windows"), "{windows}");
}

#[test]
fn the_workload_is_the_deployment_behind_the_replica_set() {
    let metadata: ObjectMeta = serde_json::from_value(json!({
        "name": "shop-5d8f-abcde",
        "labels": { "pod-template-hash": "5d8f" },
        "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-5d8f", "uid": "1", "controller": true },
        ],
    }))
    .unwrap();
    let owner = Owner::of(&metadata);
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Deployment", "shop"));
}
