//! Readiness, rollouts, Jobs, volumes, and manifests that are wrong.

use libtest_mimic::Trial;
use weir_testbed::{Event, Phase, Sandbox};

use crate::bed::{Bed, PATIENCE, PROBED, deployment};
use crate::trial;

pub(crate) fn trials(sandbox: Option<Sandbox>) -> Vec<Trial> {
    vec![
        trial("readiness_gates_endpoints", sandbox, readiness),
        trial("a_rollout_never_leaves_a_service_without_a_pod", sandbox, rollout),
        trial("a_job_with_a_native_sidecar_completes", sandbox, job),
        trial("a_broken_manifest_keeps_the_last_good_state", sandbox, broken),
        trial("a_pod_that_is_refused_leaves_nothing_behind", sandbox, refused),
        trial("volumes_and_tokens_reach_the_container", sandbox, volumes),
        trial("a_killed_container_restarts", sandbox, killed),
    ]
}

async fn readiness(sandbox: Sandbox) {
    let unready =
        "readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, failureThreshold: 1}";
    let manifests = deployment("web", 1, unready) + "---\n" + &deployment("client", 1, "");
    let bed = Bed::start(sandbox, &[("all.yaml", &manifests)]).await;
    let up = |pods: &[weir_testbed::PodStatus]| {
        pods.len() == 2
            && pods
                .iter()
                .all(|pod| pod.containers.values().any(|container| container.running))
    };
    bed.testbed.wait_for(PATIENCE, up).await.unwrap();
    let slice = bed.testbed.cluster_dir().join("endpointslice_shop_web.yaml");
    assert!(std::fs::read_to_string(&slice).unwrap().contains("ready: false"));
    assert!(bed.get("shop/client", "web:80").await.is_err());
    bed.testbed
        .exec("shop/web", "app", &["touch", "/tmp/ready"])
        .await
        .unwrap();
    bed.testbed.wait_ready(PATIENCE).await.unwrap();
    assert!(std::fs::read_to_string(&slice).unwrap().contains("ready: true"));
    assert!(bed.get("shop/client", "web:80").await.is_ok());
    bed.stop().await;
}

async fn rollout(sandbox: Sandbox) {
    let client = deployment("client", 1, "");
    let bed = Bed::start(
        sandbox,
        &[
            ("web.yaml", &deployment("web", 1, PROBED)),
            ("client.yaml", &client),
        ],
    )
    .await;
    bed.testbed.wait_ready(PATIENCE).await.unwrap();
    let old = bed.testbed.find("shop/web").unwrap().name;
    bed.write(
        "web.yaml",
        &deployment("web", 1, &PROBED.replace("yes", "indeed")),
    );
    loop {
        match bed.get("shop/client", "web:80").await {
            Ok(answer) if answer != old => break,
            Ok(_) => {}
            // The old pod does not wait for a request that is under way.
            Err(error) => assert!(error.contains("reset"), "{error}"),
        }
    }
    let gone = |pods: &[weir_testbed::PodStatus]| pods.len() == 2 && pods.iter().all(|pod| pod.name != old);
    bed.testbed.wait_for(PATIENCE, gone).await.unwrap();
    bed.remove("web.yaml");
    bed.testbed
        .wait_for(PATIENCE, |pods| pods.len() == 1)
        .await
        .unwrap();
    bed.stop().await;
}

async fn job(sandbox: Sandbox) {
    let manifest = "
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: shop}
spec:
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      volumes: [{name: shared}]
      initContainers:
        - {name: first, image: none, command: [sh, -c, 'echo one > /shared/order'], volumeMounts: [{name: shared, mountPath: /shared}]}
        - name: proxy
          image: app
          restartPolicy: Always
          args: [serve, '9000']
          startupProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}
        - {name: last, image: app, args: [get, '127.0.0.1:9000']}
      containers:
        - {name: work, image: none, command: [cat, /shared/order], volumeMounts: [{name: shared, mountPath: /shared}]}
";
    let bed = Bed::start(sandbox, &[("job.yaml", manifest)]).await;
    let done = |pods: &[weir_testbed::PodStatus]| pods.iter().any(|pod| pod.phase == Phase::Succeeded);
    let pods = bed.testbed.wait_for(PATIENCE, done).await.unwrap();
    assert!(pods[0].containers.values().all(|container| !container.running));
    assert_eq!(pods[0].containers["work"].exit_code, Some(0));
    bed.stop().await;
}

async fn broken(sandbox: Sandbox) {
    let good = deployment("web", 1, PROBED);
    let bed = Bed::start(sandbox, &[("web.yaml", &good)]).await;
    bed.testbed.wait_ready(PATIENCE).await.unwrap();
    let mut events = bed.testbed.events();
    bed.write("web.yaml", &good.replace("replicas: 1", "replicas: many"));
    let error = loop {
        if let Event::Manifest(error) = events.recv().await.unwrap() {
            break error.to_string();
        }
    };
    assert!(
        error.contains("web.yaml: Deployment web: spec.replicas: "),
        "{error}"
    );
    assert!(bed.testbed.find("shop/web").unwrap().ready());
    bed.write("other.yaml", &deployment("other", 1, ""));
    bed.testbed
        .wait_for(PATIENCE, |pods| {
            pods.len() == 2 && pods.iter().all(|pod| pod.ready())
        })
        .await
        .unwrap();
    bed.stop().await;
}

async fn refused(sandbox: Sandbox) {
    let volume = "volumeMounts: [{name: settings, mountPath: /settings}]
      volumes: [{name: settings, configMap: {name: settings}}]";
    let bed = Bed::start(sandbox, &[("web.yaml", &deployment("web", 1, volume))]).await;
    let mut events = bed.testbed.events();
    loop {
        if let Event::Rejected { reason, .. } = events.recv().await.unwrap()
            && reason.contains("ConfigMap settings does not exist")
        {
            break;
        }
    }
    let settings = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop}}";
    bed.write("settings.yaml", settings);
    bed.testbed.wait_ready(PATIENCE).await.unwrap();
    let run = bed.testbed.cluster_dir().parent().unwrap().to_owned();
    for kind in ["pods", "netns"] {
        assert_eq!(std::fs::read_dir(run.join(kind)).unwrap().count(), 1, "{kind}");
    }
    bed.stop().await;
}

async fn volumes(sandbox: Sandbox) {
    let manifest = "
kind: ConfigMap
apiVersion: v1
metadata: {name: settings, namespace: shop}
data: {colour: green}
---
kind: Pod
apiVersion: v1
metadata: {name: p, namespace: shop, labels: {app: p}}
spec:
  serviceAccountName: robot
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1500}
  volumes:
    - {name: settings, configMap: {name: settings}}
    - name: token
      projected: {sources: [{serviceAccountToken: {audience: them, path: token, expirationSeconds: 600}}]}
  containers:
    - name: app
      image: app
      args: [serve, '$(PORT)']
      env: [{name: PORT, value: '8080'}]
      startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
      readinessProbe: {exec: {command: [sh, -c, 'test -e /settings/colour']}, periodSeconds: 1}
      volumeMounts: [{name: settings, mountPath: /settings}, {name: token, mountPath: /var/run/secrets/them}]
";
    let bed = Bed::with(sandbox, &[("p.yaml", manifest)], |options| {
        options.mint = std::sync::Arc::new(|request| {
            Ok(format!(
                "{}/{} for {} in {:?}",
                request.namespace, request.service_account, request.audience, request.expiration
            ))
        });
    })
    .await;
    bed.testbed.wait_ready(PATIENCE).await.unwrap();
    assert_eq!(
        bed.get("shop/p", "localhost:8080/file/settings/colour")
            .await
            .as_deref(),
        Ok("green")
    );
    let token = bed
        .get("shop/p", "localhost:8080/file/var/run/secrets/them/token")
        .await;
    assert_eq!(token.as_deref(), Ok("shop/robot for them in 600s"));
    let id = bed.testbed.exec("shop/p", "app", &["id", "-u"]).await.unwrap();
    let expected = if sandbox.single_uid() { "0\n" } else { "1500\n" };
    assert_eq!(String::from_utf8(id.stdout).unwrap(), expected);
    bed.stop().await;
}

async fn killed(sandbox: Sandbox) {
    let bed = Bed::start(sandbox, &[("web.yaml", &deployment("web", 1, PROBED))]).await;
    bed.testbed.wait_ready(PATIENCE).await.unwrap();
    bed.testbed.kill_container("shop/web", "app").await.unwrap();
    let back = |pods: &[weir_testbed::PodStatus]| {
        pods.iter()
            .any(|pod| pod.ready() && pod.containers["app"].restarts == 1)
    };
    bed.testbed.wait_for(PATIENCE, back).await.unwrap();
    assert!(
        bed.testbed
            .logs("shop/web", "app")
            .unwrap()
            .matches("serving 8080")
            .count()
            == 2
    );
    bed.stop().await;
}
