use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::*;

fn spec(spec: Value) -> PodSpec {
    serde_json::from_value(spec).unwrap()
}

fn rewritten(containers: Value) -> (Value, ProbeListeners) {
    let mut spec = spec(json!({ "containers": containers }));
    let mut listeners = ProbeListeners::default();
    rewrite(&mut spec, &mut listeners, true).unwrap();
    (serde_json::to_value(&spec.containers).unwrap(), listeners)
}

fn slots(listeners: &ProbeListeners, slot: Slot) -> Vec<(u16, Option<u16>)> {
    let of = |listener: &ProbeListener| match slot {
        Slot::Https => listener.https,
        Slot::Grpc => listener.grpc,
    };
    listeners.iter().map(|(port, it)| (port, of(it))).collect()
}

fn grpc(name: &str, port: u16) -> Value {
    json!({ "name": name, "livenessProbe": { "grpc": { "port": port } } })
}

#[test]
fn probes_without_a_path_of_several_containers_get_ports_of_their_own() {
    let (containers, listeners) = rewritten(json!([grpc("a", 9001), grpc("b", 9002), grpc("c", 9001)]));
    let asked = |at: usize| containers[at]["livenessProbe"]["grpc"]["port"].as_u64();
    assert_eq!(
        (asked(0), asked(1), asked(2)),
        (Some(15901), Some(15902), Some(15901))
    );
    let expected = vec![(15901, Some(9001)), (15902, Some(9002))];
    assert_eq!(slots(&listeners, Slot::Grpc), expected);
}

#[test]
fn a_probe_that_cannot_be_told_apart_is_refused() {
    let mut spec = spec(json!({ "containers": (1..5).map(|n| grpc("it", n)).collect::<Vec<_>>() }));
    let refused = rewrite(&mut spec, &mut ProbeListeners::default(), true);
    assert!(refused.unwrap_err().to_string().contains("port 4"));
}

#[test]
fn https_and_grpc_share_a_port() {
    let (containers, listeners) = rewritten(json!([
        { "name": "a", "livenessProbe": { "httpGet": { "port": 8443, "scheme": "HTTPS", "path": "/ok" } } },
        grpc("b", 9000),
    ]));
    let get = &containers[0]["livenessProbe"]["httpGet"];
    assert_eq!((&get["port"], &get["path"]), (&json!(15901), &json!("/ok")));
    assert_eq!(slots(&listeners, Slot::Https), vec![(15901, Some(8443))]);
    assert_eq!(slots(&listeners, Slot::Grpc), vec![(15901, Some(9000))]);
}

#[test]
fn hooks_are_asked_through_the_sidecar_and_take_their_time() {
    let hooks = json!({
        "postStart": { "httpGet": { "port": 8080, "path": "/warm" } },
        "preStop": { "httpGet": { "port": "http" } },
    });
    let ports = json!([{ "name": "http", "containerPort": 8081 }]);
    let (containers, listeners) = rewritten(json!([{ "name": "a", "ports": ports, "lifecycle": hooks }]));
    let lifecycle = &containers[0]["lifecycle"];
    assert_eq!(lifecycle["postStart"]["httpGet"]["path"], "/osm-poststart-hook/a");
    assert_eq!(lifecycle["preStop"]["httpGet"]["port"], 15901);
    let (_, listener) = listeners.iter().next().unwrap();
    let forwarded: Vec<_> = listener
        .http
        .iter()
        .map(|it| (it.original.as_str(), it.port, it.timeout))
        .collect();
    assert_eq!(forwarded, [("/warm", 8080, 0), ("/", 8081, 0)]);
}

#[test]
fn what_another_host_is_asked_stays() {
    let container = json!({
        "name": "a",
        "livenessProbe": { "httpGet": { "host": "10.0.0.1", "port": 80 } },
        "readinessProbe": { "tcpSocket": { "host": "10.0.0.1", "port": 80 } },
        "startupProbe": { "exec": { "command": ["true"] } },
        "lifecycle": { "preStop": { "sleep": { "seconds": 5 } } },
    });
    let (containers, listeners) = rewritten(json!([container]));
    assert_eq!(listeners, ProbeListeners::default());
    assert_eq!(containers[0]["readinessProbe"], container["readinessProbe"]);
    assert_eq!(containers[0]["livenessProbe"], container["livenessProbe"]);
}

#[test]
fn an_init_container_that_stays_has_its_probes_too_where_the_sidecar_comes_first() {
    let inits = json!([
        { "name": "once" },
        { "name": "stays", "restartPolicy": "Always", "startupProbe": { "tcpSocket": { "port": 6379 } } },
    ]);
    let mut native = spec(json!({ "containers": [], "initContainers": inits }));
    let mut classic = native.clone();
    rewrite(&mut native, &mut ProbeListeners::default(), true).unwrap();
    let stays = &native.init_containers.unwrap()[1];
    assert!(stays.startup_probe.as_ref().unwrap().http_get.is_some());
    let refused = rewrite(&mut classic, &mut ProbeListeners::default(), false);
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("native-sidecar") && text.contains("startupProbe"),
        "{text}"
    );
}

#[test]
fn a_port_that_is_none_is_refused() {
    for port in [json!(0), json!(70000), json!("web")] {
        let container = json!({ "name": "a", "readinessProbe": { "tcpSocket": { "port": port } } });
        let mut spec = spec(json!({ "containers": [container] }));
        assert!(
            rewrite(&mut spec, &mut ProbeListeners::default(), true).is_err(),
            "{port}"
        );
    }
}

#[test]
fn a_second_time_changes_nothing() {
    let mut spec = spec(json!({ "containers": [
        {
            "name": "a",
            "livenessProbe": { "httpGet": { "port": 80 } },
            "readinessProbe": { "tcpSocket": { "port": 80 } },
            "startupProbe": { "httpGet": { "port": 443, "scheme": "HTTPS" } },
            "lifecycle": { "preStop": { "httpGet": { "port": 80, "path": "/bye" } } },
        },
        grpc("b", 9000),
    ] }));
    let mut listeners = ProbeListeners::default();
    rewrite(&mut spec, &mut listeners, true).unwrap();
    let (first, known) = (spec.clone(), listeners.clone());
    rewrite(&mut spec, &mut listeners, true).unwrap();
    assert_eq!((spec, listeners), (first, known));
}
