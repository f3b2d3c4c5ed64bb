//! Pods that end while they are used.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use hyper::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};
use weir_testbed::{Phase, PodStatus};

use crate::{
    Outcome, Tests, client,
    load::Load,
    manifest::{allow_http, annotated, member, service},
    scene::Scene,
    server,
    world::{World, within},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a request goes on after the sidecar was told to end.
const LONGER: Duration = Duration::from_secs(3);
const WEB: &str = "{name: http-web, port: 8080}";

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add("drain::a_rolling_update_under_load_fails_no_request", |world| {
        rolling(world, "drain-rolling", GRACEFUL)
    });
    tests.add(
        "drain::a_rolling_update_of_what_ends_at_once_fails_no_request",
        |world| rolling(world, "drain-at-once", AT_ONCE),
    );
    tests.add("drain::a_deleted_pod_under_load_fails_no_request", deleted);
    for (pod, whose) in [("server", "server_s"), ("client", "client_s")] {
        tests.add(
            &format!("drain::a_request_in_flight_outlives_the_{whose}_sigterm"),
            move |world| in_flight(world, pod),
        );
    }
    tests.add("drain::a_job_with_a_sidecar_completes", job);
}

/// Serves a moment longer when told to end, as Kubernetes asks of applications: requests are on their way by who has
/// not heard of it yet.
const GRACEFUL: &str = "sleep 2; kill $server";
/// As most applications end.
const AT_ONCE: &str = "kill -9 $server";

/// Replicas of a server that is a program of its own, as a person would deploy it, and ends so.
fn deployment(version: &str, end: &str) -> String {
    let serve = format!("setsid /weir-bookstore bookstore --identity={version} --port=8080 & server=$!");
    let command = format!("{serve}; trap '{end}' TERM; wait; wait");
    format!(
        "---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: store, namespace: $NS}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: store, namespace: $NS}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: store}}}}
  template:
    metadata: {{labels: {{app: store}}}}
    spec:
      serviceAccountName: store
      terminationGracePeriodSeconds: 30
      containers:
        - name: store
          image: weir-bookstore:latest
          command: [bash, -c, \"{command}\"]
          readinessProbe: {{httpGet: {{path: /readiness, port: 8080}}, periodSeconds: 1}}
"
    )
}

fn is_store(scene: &str) -> impl Fn(&&PodStatus) -> bool {
    move |pod| pod.namespace == scene && pod.name.starts_with("store-")
}

/// A client, and a Deployment that it asks without a pause.
async fn stage(world: &Arc<World>, namespace: &str, end: &str) -> anyhow::Result<(Scene, Load)> {
    let parts = [
        member("client"),
        service("store", WEB),
        allow_http("store", &["client"]),
    ];
    let scene = Scene::open(Arc::clone(world), namespace, &parts).await?;
    scene.apply("store", &[deployment("first", end)])?;
    let two = |pods: &[PodStatus]| {
        pods.iter()
            .filter(is_store(namespace))
            .filter(|pod| pod.ready())
            .count()
            == 2
    };
    let waited = world.mesh().testbed().wait_for(PATIENCE, two).await;
    waited.with_context(|| scene.evidence())?;
    let to = scene.service("store", 8080)?;
    let reached = || async { scene.get("client", to, "/").await?.expect(200) };
    scene.eventually("the store is reached", reached).await?;
    let load = Load::start(Arc::clone(world), scene.pod("client"), to, "/books-bought");
    Ok((scene, load))
}

async fn rolling(world: Arc<World>, namespace: &str, end: &str) -> Outcome {
    let (scene, mut load) = stage(&world, namespace, end).await?;
    let to = scene.service("store", 8080)?;
    load.more(50).await?;
    for version in ["second", "third"] {
        let old: Vec<String> = {
            let pods = world.mesh().testbed().pods();
            let pods = pods.borrow();
            pods.iter()
                .filter(is_store(namespace))
                .map(|pod| pod.uid.clone())
                .collect()
        };
        scene.apply("store", &[deployment(version, end)])?;
        let replaced = |pods: &[PodStatus]| {
            let stores: Vec<_> = pods.iter().filter(is_store(namespace)).collect();
            stores.len() == 2 && stores.iter().all(|pod| pod.ready() && !old.contains(&pod.uid))
        };
        let waited = world.mesh().testbed().wait_for(PATIENCE, replaced).await;
        waited.with_context(|| scene.evidence())?;
        load.more(50).await?;
        let reply = scene.get("client", to, "/").await?.expect(200)?;
        ensure!(
            reply.header("identity") == version,
            "{} answers",
            reply.header("identity")
        );
    }
    let made = load.stop().await;
    made.map(drop).with_context(|| scene.evidence())
}

async fn deleted(world: Arc<World>) -> Outcome {
    let namespace = "drain-deleted";
    let (scene, mut load) = stage(&world, namespace, AT_ONCE).await?;
    for _ in 0..3 {
        load.more(50).await?;
        let victim = world.mesh().testbed().find(&scene.pod("store"))?;
        world
            .mesh()
            .testbed()
            .delete_pod(&scene.pod(&victim.name))
            .await?;
        let replaced = |pods: &[PodStatus]| {
            let stores: Vec<_> = pods.iter().filter(is_store(namespace)).collect();
            stores.len() == 2 && stores.iter().all(|pod| pod.ready() && pod.uid != victim.uid)
        };
        let waited = world.mesh().testbed().wait_for(PATIENCE, replaced).await;
        waited.with_context(|| scene.evidence())?;
    }
    load.more(50).await?;
    let made = load.stop().await;
    made.map(drop).with_context(|| scene.evidence())
}

/// A server that says when it has a request, and answers when it is told to: half of the answer at first.
async fn slow(listener: TcpListener, asked: watch::Sender<bool>, go: watch::Receiver<bool>) {
    server::each(listener, move |mut stream| {
        let (asked, mut go) = (asked.clone(), go.clone());
        async move {
            let mut request = [0; 4096];
            if !matches!(stream.read(&mut request).await, Ok(bytes) if bytes > 0) {
                return;
            }
            let _client_left = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                .await;
            asked.send_replace(true);
            let _scene_is_over = go.wait_for(|go| *go).await.map(drop);
            let _client_left = stream.write_all(b" more").await;
        }
    })
    .await;
}

async fn in_flight(world: Arc<World>, victim: &str) -> Outcome {
    let patient = |pod: &str| {
        let pod = annotated(pod, "openservicemesh.io/log-level: info");
        pod.replace(
            "terminationGracePeriodSeconds: 1",
            "terminationGracePeriodSeconds: 40",
        )
    };
    let parts = [
        patient("client"),
        patient("server"),
        service("server", WEB),
        allow_http("server", &["client"]),
    ];
    let scene = Scene::open(Arc::clone(&world), &format!("drain-{victim}"), &parts).await?;
    let (asked, mut is_asked) = watch::channel(false);
    let (go, gone) = watch::channel(false);
    scene.serve(slow(scene.listen("server", 8080).await?, asked, gone));
    let to = scene.service("server", 8080)?;
    let sent = || async {
        let request = Request::get("/").header("host", "server");
        let stream = scene.dial("client", to).await?;
        let mut connection = client::Http1::new(stream).await?;
        let response = connection
            .send(request.body(http_body_util::Empty::<hyper::body::Bytes>::new())?)
            .await?;
        ensure!(response.status() == 200, "the answer is {}", response.status());
        Ok((connection, response))
    };
    let (_connection, response) = scene.eventually("the request arrives", sent).await?;
    within(PATIENCE, "the request", is_asked.wait_for(|asked| *asked)).await??;

    let testbed = world.mesh().testbed();
    testbed.delete_pod(&scene.pod(victim)).await?;
    let draining = || async {
        let log = testbed.logs(&scene.pod(victim), "weir-proxy")?;
        ensure!(log.contains("draining"), "the sidecar does not drain yet");
        Ok(())
    };
    scene.eventually("the sidecar has its SIGTERM", draining).await?;
    tokio::time::sleep(LONGER).await;
    go.send_replace(true);
    let reply = client::Reply::read(response).await;
    let reply = reply.with_context(|| scene.evidence())?;
    ensure!(reply.body == "half more", "the body is {:?}", reply.body);
    Ok(())
}

async fn job(world: Arc<World>) -> Outcome {
    let parts = [
        member("server"),
        service("server", WEB),
        allow_http("server", &["buyer"]),
    ];
    let scene = Scene::open(Arc::clone(&world), "drain-job", &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    // Fails until the policy has arrived, and is then tried anew in a new pod: as a Job is.
    let script = "exec 3<>/dev/tcp/server/8080 && printf 'GET / HTTP/1.1\\r\\nHost: server\\r\\nConnection: close\\r\\n\\r\\n' >&3 \
                  && grep -q '^HTTP/1.1 200' <&3";
    scene.apply(
        "job",
        &[format!(
            "---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: buyer, namespace: $NS}}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: buyer, namespace: $NS}}
spec:
  template:
    metadata: {{labels: {{app: buyer}}}}
    spec:
      serviceAccountName: buyer
      restartPolicy: Never
      containers:
        - {{name: buyer, image: none, command: [bash, -c, \"{}\"]}}
",
            script.replace('\\', "\\\\")
        )],
    )?;
    let completed = |pods: &[PodStatus]| {
        pods.iter().any(|pod| {
            pod.namespace == "drain-job"
                && pod.name.starts_with("buyer-")
                && pod.phase == Phase::Succeeded
                && pod.containers.contains_key("weir-proxy")
        })
    };
    let waited = world.mesh().testbed().wait_for(PATIENCE, completed).await;
    waited.map(drop).with_context(|| scene.evidence())
}
