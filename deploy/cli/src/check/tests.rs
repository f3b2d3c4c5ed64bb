use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, apps::v1::Deployment};
use serde_json::json;
use weir_controller::{
    catalog,
    endpoints::{Objects, Store},
};

use super::{
    clock, control_plane, mesh, policies,
    report::{Report, Section},
    services, workloads,
};

const SHOP: &str = r"
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {openservicemesh.io/monitored-by: osm}
  annotations: {openservicemesh.io/sidecar-injection: enabled}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: weir-system}
spec: {traffic: {enablePermissiveTrafficPolicyMode: false}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
";

fn objects(yaml: &str) -> Objects {
    let mut store = Store::new(1);
    store.put(0, "shop.yaml", SHOP);
    store.put(0, "more.yaml", yaml);
    let objects = store.objects();
    assert!(
        objects
            .diagnostics
            .iter()
            .all(|it| it.column != 1 || it.line != 1),
        "{:?}",
        objects.diagnostics
    );
    objects
}

/// The lines of a check of these objects and the shop's.
fn found(yaml: &str, namespaces: &[&str], check: impl Fn(&mesh::View<'_>) -> Section) -> Vec<String> {
    let objects = objects(yaml);
    let settings = catalog::Settings {
        mesh_name: "osm".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        namespace: "weir-system".to_owned(),
    };
    let snapshot = catalog::build(None, &objects, &settings);
    let namespaces: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
    let view = mesh::View {
        objects: &objects,
        settings: &settings,
        snapshot: &snapshot,
        namespaces: &namespaces,
    };
    check(&view).lines()
}

fn pod(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}-h-1, namespace: {namespace}, uid: {name}, \
         labels: {{app: {name}, pod-template-hash: h}}, ownerReferences: [{{apiVersion: apps/v1, \
         kind: ReplicaSet, name: {name}-h, uid: u, controller: true}}]}}, spec: {spec}}}\n"
    )
}

const APP: &str =
    "{serviceAccountName: web, containers: [{name: app, ports: [{name: web, containerPort: 80}]}]}";
const MESHED: &str = "{serviceAccountName: web, containers: [{name: app}], initContainers: [{name: weir-proxy, image: 'weir-proxy:1'}]}";

#[test]
fn pods_without_a_sidecar_are_told_how_to_get_one() {
    let lines = found(&pod("shop", "web", APP), &[], |view| workloads::check(view, None));
    assert_eq!(
        lines,
        [
            "error: Deployment shop/web: 1 pod without a sidecar, made before the namespace was in the mesh; \
          kubectl -n shop rollout restart deployment/web"
        ]
    );
    let disabled = pod("shop", "web", APP).replace(
        "labels: {app",
        "annotations: {openservicemesh.io/sidecar-injection: disabled}, labels: {app",
    );
    assert_eq!(
        found(&disabled, &[], |view| workloads::check(view, None)),
        [""; 0]
    );
    let outside = pod("plain", "web", APP);
    assert_eq!(found(&outside, &[], |view| workloads::check(view, None)), [""; 0]);
}

#[test]
fn sidecars_that_are_old_or_left_over_are_found() {
    let yaml = pod("shop", "web", MESHED) + &pod("plain", "web", MESHED);
    let lines = found(&yaml, &[], |view| workloads::check(view, Some("weir-proxy:2")));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("plain/web: 1 pod with a sidecar, in a namespace that is not"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains("shop/web: 1 pod with the sidecar of another version, weir-proxy:1"),
        "{lines:?}"
    );
    let lines = found(&pod("shop", "web", MESHED), &[], |view| {
        workloads::check(view, Some("weir-proxy:1"))
    });
    assert_eq!(lines, [""; 0]);
}

#[test]
fn a_sidecar_that_does_not_run_is_found() {
    let state = "status: {initContainerStatuses: [{name: weir-init, image: i, imageID: '', ready: false, restartCount: 3, \
                 state: {waiting: {reason: CrashLoopBackOff, message: back-off}}}]}, spec:";
    let yaml = pod("shop", "web", MESHED).replace("spec:", state);
    let lines = found(&yaml, &[], |view| workloads::check(view, None));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("container weir-init does not start: CrashLoopBackOff back-off"),
        "{lines:?}"
    );
    assert!(
        lines[0].contains("kubectl -n shop logs web-h-1 --all-containers"),
        "{lines:?}"
    );
}

#[test]
fn the_namespaces_asked_for_must_be_in_the_mesh() {
    let lines = found(&pod("shop", "web", APP), &["plain", "gone"], |view| {
        workloads::check(view, None)
    });
    assert_eq!(
        lines,
        [
            "error: Namespace plain: it is not in the mesh; weir namespace add plain",
            "error: Namespace gone: it does not exist; correct its name",
        ]
    );
}

#[test]
fn namespaces_of_another_mesh_or_without_injection_are_found() {
    let yaml = "
{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {openservicemesh.io/monitored-by: old}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: half, labels: {openservicemesh.io/monitored-by: osm}}}
";
    let lines = found(yaml, &[], |view| workloads::check(view, None));
    assert!(
        lines[0].contains("half: it is in the mesh, but asks for no sidecars"),
        "{lines:?}"
    );
    assert!(lines[1].contains("other: it belongs to mesh old"), "{lines:?}");
}

fn service(ports: &str, selector: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, spec: {{clusterIP: 10.9.0.1, \
         selector: {selector}, ports: [{ports}]}}}}\n"
    )
}

#[test]
fn services_say_their_protocol_and_match_pods() {
    let bad = service("{port: 80, name: web, targetPort: wep}", "{app: web}") + &pod("shop", "web", APP);
    let lines = found(&bad, &[], services::check);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("port 80 leads to the port named wep, which none of its pods has"),
        "{lines:?}"
    );
    assert!(lines[1].contains("port 80 declare"), "{lines:?}");
    let good =
        service("{port: 80, name: http-web, targetPort: web}", "{app: web}") + &pod("shop", "web", APP);
    assert_eq!(found(&good, &[], services::check), [""; 0]);
    let none = service("{port: 80, appProtocol: tcp}", "{app: wep}") + &pod("shop", "web", APP);
    let lines = found(&none, &[], services::check);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("its selector app=wep matches no pod"),
        "{lines:?}"
    );
    assert_eq!(found(&none, &["plain"], services::check), [""; 0]);
}

#[test]
fn policies_that_name_nothing_or_are_named_by_nothing_are_found() {
    let yaml = "
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: t, namespace: shop}
spec:
  destination: {kind: ServiceAccount, name: web, namespace: shop}
  sources: [{kind: ServiceAccount, name: nobody, namespace: shop}]
  rules: [{kind: HTTPRouteGroup, name: absent}]
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: TCPRoute
metadata: {name: idle, namespace: shop}
spec: {matches: {ports: [80]}}
";
    let lines = found(yaml, &[], policies::check).join("\n");
    for part in [
        "there is no ServiceAccount shop/nobody",
        "there is no HTTPRouteGroup shop/absent",
        "TCPRoute shop/idle: no TrafficTarget of its namespace names it",
        "TrafficTarget shop/t: spec.destination.name: no pod runs as ServiceAccount web",
    ] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
}

#[test]
fn services_that_nobody_may_reach_are_found_where_policy_is_enforced() {
    let slice = "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: web, \
                 namespace: shop, labels: {kubernetes.io/service-name: web}}, ports: [{port: 80}], \
                 endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-h-1}}]}\n";
    let yaml = service("{port: 80, appProtocol: http}", "{app: web}") + &pod("shop", "web", MESHED) + slice;
    let lines = found(&yaml, &[], policies::check);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("Service shop/web: no TrafficTarget lets anyone reach it"),
        "{lines:?}"
    );
}

#[test]
fn clocks_are_compared() {
    assert_eq!(clock::date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
    let node = |name: &str, renewed| clock::Node {
        name: name.to_owned(),
        ready: true,
        renewed,
    };
    let nodes = [
        node("good", Some(995)),
        node("ahead", Some(1060)),
        node("late", Some(700)),
        node("new", None),
    ];
    let mut section = Section::new("clocks");
    clock::check(1000, 1000, &nodes, &mut section);
    let lines = section.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("Node ahead: its clock is +60 seconds"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains("Node late: its clock is -300 seconds"),
        "{lines:?}"
    );
}

#[test]
fn a_root_that_ends_is_found_in_time() {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let root = parameters.self_signed(&key).unwrap().pem();
    let end = 1_893_456_000;
    let lines = |now| {
        let mut section = Section::new("root");
        control_plane::expiry("s", &root, now, &mut section);
        section.lines()
    };
    assert_eq!(lines(end - 100 * 86_400), [""; 0]);
    assert!(lines(end - 86_400)[0].contains("expires in 1 days"));
    assert!(lines(end + 1)[0].contains("has expired"));
    let mut section = Section::new("root");
    control_plane::expiry("s", "junk", 0, &mut section);
    assert!(section.lines()[0].contains("is no certificate"));
}

#[test]
fn webhooks_must_know_the_root() {
    let webhook = |bundle: &str| -> MutatingWebhookConfiguration {
        let hook = json!({
            "name": "w", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": { "caBundle": bundle },
        });
        serde_json::from_value(json!({ "metadata": { "name": "w" }, "webhooks": [hook] })).unwrap()
    };
    let lines = |found: Option<&MutatingWebhookConfiguration>| {
        let mut section = Section::new("webhook");
        control_plane::injector(found, Some("root\n"), &mut section);
        section.lines()
    };
    assert_eq!(lines(Some(&webhook("cm9vdAo="))), [""; 0]);
    assert!(lines(Some(&webhook("b3RoZXI=")))[0].contains("is not the mesh's root"));
    assert!(lines(Some(&webhook("")))[0].contains("caBundle is empty"));
    assert!(lines(None)[0].contains("does not exist"));
}

#[test]
fn the_controllers_flags_are_read() {
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": { "name": "weir-controller" },
        "spec": { "replicas": 1, "selector": {}, "template": { "spec": { "containers": [
            { "name": "c", "args": ["--mesh-name=osm", "--proxy-image=r/weir-proxy:2"] },
        ] } } },
    }))
    .unwrap();
    assert_eq!(
        control_plane::argument(&deployment, "--proxy-image="),
        Some("r/weir-proxy:2".to_owned())
    );
    let mut section = Section::new("deployment");
    control_plane::deployment("ns", &deployment, &[], &mut section);
    let lines = section.lines().join("\n");
    assert!(
        lines.contains("no pod has been made yet") && lines.contains("one controller only"),
        "{lines}"
    );
}

#[test]
fn a_report_puts_errors_first_and_sums_up() {
    let mut section = Section::new("things");
    section.note("3 of them");
    section.warning("Service a/b", "odd", "look");
    section.error("Pod a/c", "broken", "mend it");
    let mut report = Report::default();
    report.add(section);
    report.add(Section::new("rest"));
    let text = "\
error    things: 3 of them
  error: Pod a/c: broken; mend it
  warning: Service a/b: odd; look
ok       rest
1 error, 1 warning
";
    assert_eq!(report.to_string(), text);
    assert_eq!(report.errors(), 1);
    let json = report.json();
    assert_eq!(
        json.pointer("/sections/0/findings/0/remedy"),
        Some(&json!("mend it"))
    );
    assert_eq!(json.pointer("/sections/1/state"), Some(&json!("ok")));
}
