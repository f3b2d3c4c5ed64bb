//! What changes in the cluster reaches sidecars.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use kube::ResourceExt;
use weir_xds::ResourceType;

use crate::{
    Outcome, Tests,
    client::{Session, sign},
    pods::AUDIENCE,
    space::Space,
    world::World,
};

/// How soon a change must have arrived, as a median: a single one may meet a busy machine.
const SOON: Duration = Duration::from_secs(1);
/// How long it is looked whether a change that must harm nobody does.
const A_WHILE: Duration = Duration::from_millis(700);

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.beside("watches::an_endpoint_reaches_sidecars_within_a_second", endpoints);
    tests.beside(
        "watches::a_policy_reaches_sidecars_and_leaves_them_within_a_second",
        policy,
    );
    tests.beside("watches::one_bad_object_harms_no_other", bad_object);
    tests.alone("watches::mesh_config_is_live", mesh_config);
}

/// A Service on port 8080.
pub(crate) fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  \
         ports: [{{name: http-web, port: 8080, targetPort: 8080}}]\n"
    )
}

/// Its endpoints, as the cluster's controllers would make them.
pub(crate) fn slice(service: &str, pods: &[(&str, &str)]) -> String {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|(pod, ip)| {
            format!(
                "{{addresses: [{ip}], conditions: {{ready: true, serving: true}}, targetRef: {{kind: Pod, name: {pod}}}}}"
            )
        })
        .collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-1\n  labels: \
         {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\nports: [{{name: http-web, port: 8080, protocol: \
         TCP}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

/// Lets one ServiceAccount reach another by every path.
pub(crate) fn allow(server: &str, client: &str) -> String {
    format!(
        "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\nmetadata: {{name: {server}-any}}\nspec:\n  \
         matches: [{{name: any, pathRegex: '.*', methods: ['*']}}]\n---\n\
         apiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\nmetadata: {{name: {server}-{client}}}\nspec:\n  \
         destination: {{kind: ServiceAccount, name: {server}}}\n  sources: [{{kind: ServiceAccount, name: {client}}}]\n  \
         rules: [{{kind: HTTPRouteGroup, name: {server}-any, matches: [any]}}]\n"
    )
}

/// The configuration of a running pod.
pub(crate) async fn session(
    space: &Space,
    name: &str,
    ip: &str,
    wanted: &[(ResourceType, &str)],
) -> anyhow::Result<Session> {
    let pod = space.run_pod(name, name, ip).await?;
    let token = space.token(name, Some(&pod), AUDIENCE).await?;
    let (world, controller) = (&space.world, space.world.controller(0));
    let signed = sign(world, controller, &token, &[]).await?;
    let signed = signed.context("a good token is refused")?;
    let uid = pod.uid().context("no UID")?;
    let mut session = Session::open(world, controller, &signed, &uid, wanted).await?;
    session
        .until("the inbound listener", |known| known.has("inbound"))
        .await?;
    Ok(session)
}

fn soon(mut times: Vec<Duration>) -> Outcome {
    times.sort();
    let median = times.get(times.len() / 2).context("nothing was measured")?;
    ensure!(*median < SOON, "the changes took {times:?}");
    Ok(())
}

async fn endpoints(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "endpoints", &["client", "server"]).await?;
    space.apply(&service("server")).await?;
    space.apply(&allow("server", "client")).await?;
    let mut servers = Vec::new();
    for number in 0..5 {
        let (name, ip) = (format!("server-{number}"), format!("10.2.1.{}", number + 1));
        space.run_pod(&name, "server", &ip).await?;
        servers.push((name, ip));
    }
    let cluster = "endpoints/server|8080";
    let mut session = session(
        &space,
        "client",
        "10.2.1.100",
        &[(ResourceType::Endpoints, cluster)],
    )
    .await?;
    let mut times = Vec::new();
    for count in 1..=servers.len() {
        let pods: Vec<_> = servers[..count]
            .iter()
            .map(|(name, ip)| (name.as_str(), ip.as_str()))
            .collect();
        space.apply(&slice("server", &pods)).await?;
        let ip = pods.last().context("no pod")?.1;
        times.push(session.until("the endpoint", |known| known.says(ip)).await?);
    }
    space.apply(&slice("server", &[])).await?;
    times.push(
        session
            .until("no endpoint", |known| !known.says("10.2.1.1"))
            .await?,
    );
    soon(times)
}

async fn policy(world: Arc<World>) -> Outcome {
    let accounts = ["client", "server"];
    let space = Space::open(&world, "policy", &accounts).await?;
    space.apply(&service("server")).await?;
    space.apply(&slice("server", &[("server", "10.2.2.1")])).await?;
    let wanted = [(ResourceType::Route, "inbound|8080")];
    let mut session = session(&space, "server", "10.2.2.1", &wanted).await?;
    let client = "spiffe://cluster.local/ns/policy/sa/client";
    session.drain(A_WHILE).await?;
    ensure!(
        !session.has(|known| known.says(client)),
        "it is let in before it is"
    );
    let mut times = Vec::new();
    for _ in 0..3 {
        space.apply(&allow("server", "client")).await?;
        times.push(session.until("the policy", |known| known.says(client)).await?);
        space
            .delete("access.smi-spec.io/v1alpha3", "TrafficTarget", "server-client")
            .await?;
        times.push(session.until("no policy", |known| !known.says(client)).await?);
    }
    soon(times)
}

async fn bad_object(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "bad-object", &["client", "other", "server"]).await?;
    space.apply(&service("server")).await?;
    space.apply(&slice("server", &[("server", "10.2.3.1")])).await?;
    space.apply(&allow("server", "client")).await?;
    let wanted = [(ResourceType::Route, "inbound|8080")];
    let mut session = session(&space, "server", "10.2.3.1", &wanted).await?;
    let identity = |account: &str| format!("spiffe://cluster.local/ns/bad-object/sa/{account}");
    session
        .until("the policy", |known| known.says(&identity("client")))
        .await?;
    // Names what does not exist, which the validator cannot know: the object is not in force, and nothing else changes.
    let nowhere = allow("server", "other").replace("name: server-any, matches", "name: nowhere, matches");
    space.apply(&nowhere).await?;
    session.drain(A_WHILE).await?;
    ensure!(
        session.has(|known| known.says(&identity("client"))),
        "the good one is gone"
    );
    ensure!(
        !session.has(|known| known.says(&identity("other"))),
        "the bad one counts"
    );
    space.apply(&allow("server", "other")).await?;
    session
        .until("the mended object", |known| known.says(&identity("other")))
        .await?;
    Ok(())
}

async fn mesh_config(world: Arc<World>) -> Outcome {
    let controller = world.controller(0);
    let level = |level: &str| serde_json::json!({"spec": {"observability": {"osmLogLevel": level}}});
    let debug_lines = || {
        controller
            .log()
            .lines()
            .filter(|line| line.contains("DEBUG"))
            .count()
    };
    let before = debug_lines();
    world.configure(&level("debug")).await?;
    let space = Space::open(&world, "mesh-config", &["server"]).await?;
    crate::world::eventually("more to be logged", || async {
        space.apply(&service("server")).await?;
        space.delete("v1", "Service", "server").await?;
        ensure!(debug_lines() > before, "nothing is logged at debug");
        Ok(())
    })
    .await?;
    world.configure(&level("info")).await
}
