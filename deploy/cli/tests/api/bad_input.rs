//! Webhook bodies and objects that are wrong in every way.

use std::sync::Arc;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use kube::api::DynamicObject;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    Outcome, Tests,
    client::tls,
    pods::pod,
    space::{Space, documents},
    watches::{allow, service, session, slice},
    world::{World, eventually},
};

const INJECT: &str = "/mutate-pod-creation";
/// What a webhook may take in memory for bodies that it refuses, in MiB.
const GROWTH: u64 = 64;

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.beside(
        "bad_input::bodies_that_are_no_review_are_answered_and_forgotten",
        bodies,
    );
    tests.beside("bad_input::objects_with_every_field_wrong_harm_nobody", objects);
}

/// Posts to the injector as the API server does.
async fn post(world: &World, path: &str, body: Vec<u8>) -> anyhow::Result<(u16, String)> {
    let connector = TlsConnector::from(Arc::new(tls(world, None).await?));
    let stream = TcpStream::connect(("127.0.0.1", world.controller(0).ports.injector)).await?;
    let stream = connector
        .connect(ServerName::try_from("localhost")?, stream)
        .await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A review of a pod's creation.
fn review(version: &str, namespace: &str, object: &Value) -> Value {
    json!({
        "apiVersion": version, "kind": "AdmissionReview",
        "request": {
            "uid": "6f1b5a9e-0000-4000-8000-000000000000",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "name": "web", "namespace": namespace, "operation": "CREATE",
            "userInfo": {"username": "somebody"},
            "object": object, "oldObject": null, "dryRun": false, "options": null,
        },
    })
}

async fn bodies(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "bad-bodies", &["web"]).await?;
    let mut object = pod("web", "web");
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Pod");
    let good = review("admission.k8s.io/v1", &space.name, &object);
    let (status, answer) = post(&world, INJECT, good.to_string().into_bytes()).await?;
    let answer: Value = serde_json::from_str(&answer).with_context(|| format!("{status}: {answer}"))?;
    ensure!(
        answer["response"]["allowed"] == true && !answer["response"]["patch"].is_null(),
        "{answer}"
    );

    let before = world.controller(0).memory()?;
    let older = review("admission.k8s.io/v1beta1", &space.name, &object).to_string();
    let deep = "[".repeat(100_000);
    let cases: [(Vec<u8>, u16); 7] = [
        (older.into_bytes(), 400),
        (Vec::new(), 400),
        (b"null".to_vec(), 400),
        (
            b"{\"kind\": \"AdmissionReview\", \"apiVersion\": \"admission.k8s.io/v1\"}".to_vec(),
            400,
        ),
        (deep.into_bytes(), 400),
        (vec![0xff; 1024], 400),
        (
            json!({"apiVersion": "v1", "kind": "Pod"})
                .to_string()
                .into_bytes(),
            400,
        ),
    ];
    for (body, wanted) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (status, answer) = post(&world, INJECT, body).await?;
        ensure!(
            status == wanted && !answer.trim().is_empty(),
            "{shown}: {status} {answer}"
        );
    }
    // Larger than anything that the API server sends. It may be answered before it was read to its end.
    for _ in 0..4 {
        let huge = vec![b' '; 32 << 20];
        if let Ok((status, answer)) = post(&world, INJECT, huge).await {
            ensure!(status == 413, "32 MiB: {status} {answer}");
        }
    }
    let after = world.controller(0).memory()?;
    ensure!(after < before + GROWTH, "from {before} MiB to {after} MiB");

    // A pod that is none is refused with a reason, and not passed over.
    let wrong =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": 7}});
    let wrong = review("admission.k8s.io/v1", &space.name, &wrong);
    let (_, answer) = post(&world, INJECT, wrong.to_string().into_bytes()).await?;
    let answer: Value = serde_json::from_str(&answer).with_context(|| answer.clone())?;
    let response = &answer["response"];
    ensure!(
        response["allowed"] == false && response["status"]["message"].is_string(),
        "{answer}"
    );
    let (status, _) = post(&world, "/elsewhere", good.to_string().into_bytes()).await?;
    ensure!(status == 404, "{status}");
    let log = world.controller(0).log();
    ensure!(log.contains("cannot answer the API server"), "nothing is logged");
    world.controller(0).runs()
}

const KINDS: [(&str, &str); 10] = [
    ("config.openservicemesh.io/v1alpha2", "MeshConfig"),
    ("config.openservicemesh.io/v1alpha2", "MeshRootCertificate"),
    ("access.smi-spec.io/v1alpha3", "TrafficTarget"),
    ("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup"),
    ("specs.smi-spec.io/v1alpha4", "TCPRoute"),
    ("split.smi-spec.io/v1alpha2", "TrafficSplit"),
    ("policy.openservicemesh.io/v1alpha1", "Egress"),
    ("policy.openservicemesh.io/v1alpha1", "IngressBackend"),
    ("policy.openservicemesh.io/v1alpha1", "Retry"),
    ("policy.openservicemesh.io/v1alpha1", "UpstreamTrafficSetting"),
];

async fn objects(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "bad-objects", &["client", "server"]).await?;
    space.apply(&service("server")).await?;
    space.apply(&slice("server", &[("server", "10.5.1.1")])).await?;
    space.apply(&allow("server", "client")).await?;
    let mut session = session(&space, "server", "10.5.1.1", &[]).await?;
    // The API server keeps the worst out by their schemas; what it lets in is the mesh's to survive.
    for (version, kind) in KINDS {
        for spec in [
            json!({}),
            json!(null),
            json!("text"),
            json!({"x": {"y": []}}),
            json!([1, 2]),
        ] {
            let object =
                json!({"apiVersion": version, "kind": kind, "metadata": {"name": "wrong"}, "spec": spec});
            let object: DynamicObject = serde_json::from_value(object)?;
            let _refused_or_not = space.put(object).await;
        }
    }
    let strange = "apiVersion: v1\nkind: Service\nmetadata: {name: strange}\nspec: {type: ExternalName, externalName: \
                   example.com}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: headless}\nspec:\n  clusterIP: \
                   None\n  ports: [{port: 1, targetPort: nowhere}]\n";
    space.apply(strange).await?;
    let long = "x".repeat(60);
    for object in documents(&slice("nobody", &[(long.as_str(), "10.5.1.9")]))? {
        space.put(object).await?;
    }
    for index in [0, 1] {
        world.controller(index).runs()?;
        world.controller(index).ready().await?;
    }
    // Who was there before is served as before.
    space.run_pod("client", "client", "10.5.1.2").await?;
    session.drain(std::time::Duration::from_millis(500)).await?;
    ensure!(
        session.has(|known| known.has("inbound")),
        "the configuration is gone"
    );
    eventually("the pod to be injected still", || async {
        space
            .create_pod(json!({"metadata": {"generateName": "later-"}, "spec": pod("x", "client")["spec"]}))
            .await?;
        Ok(())
    })
    .await
}
