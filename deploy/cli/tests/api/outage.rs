//! An API server that is slow or gone: what was last known stays in force.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use tonic::Code;
use weir_xds::ResourceType;

use crate::{
    Outcome, Tests,
    client::{Session, sign},
    pods::AUDIENCE,
    space::{Space, documents},
    watches::{allow, service, session, slice},
    world::{World, eventually},
};

/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(4);
/// Memory that an outage may take, in MiB.
const GROWTH: u64 = 48;

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.alone("outage::a_frozen_api_server_changes_nothing", frozen);
    tests.alone("outage::an_api_server_that_is_gone_changes_nothing", gone);
    tests.alone("outage::an_api_server_that_says_429_is_asked_later", too_busy);
    tests.alone(
        "outage::a_controller_waits_for_an_api_server_that_is_not_there_yet",
        absent,
    );
}

/// Has the API server answer 429 to whatever the controllers ask while it answers another question of theirs.
const NOT_NOW: &str = "
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: not-now}
spec:
  type: Limited
  limited: {nominalConcurrencyShares: 0, lendablePercent: 0, borrowingLimitPercent: 0, limitResponse: {type: Reject}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: not-now}
spec:
  priorityLevelConfiguration: {name: not-now}
  matchingPrecedence: 2
  rules:
  - subjects: [{kind: User, user: {name: 'system:serviceaccount:weir-system:weir-controller'}}]
    resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], clusterScope: true, namespaces: ['*']}]
    nonResourceRules: [{verbs: ['*'], nonResourceURLs: ['*']}]
";

/// A server that lets a client in, and the server's configuration.
async fn scene(world: &Arc<World>, name: &str, net: u8) -> anyhow::Result<(Space, Session, String)> {
    let space = Space::open(world, name, &["client", "server", "later"]).await?;
    space.apply(&service("server")).await?;
    let ip = format!("10.7.{net}.1");
    space.apply(&slice("server", &[("server", &ip)])).await?;
    space.apply(&allow("server", "client")).await?;
    let mut session = session(&space, "server", &ip, &[(ResourceType::Route, "inbound|8080")]).await?;
    let client = format!("spiffe://cluster.local/ns/{name}/sa/client");
    session.until("the policy", |known| known.says(&client)).await?;
    Ok((space, session, client))
}

/// Both controllers serve what they know.
async fn serves(world: &World, session: &mut Session, client: &str) -> Outcome {
    session.drain(OUTAGE).await?;
    ensure!(session.has(|known| known.says(client)), "the last state is gone");
    for index in [0, 1] {
        world.controller(index).runs()?;
        let (status, body) = world.controller(index).page("/health/ready").await?;
        ensure!(status == 200, "controller {index}: {status} {body}");
    }
    Ok(())
}

/// What changes after the outage arrives.
async fn goes_on(space: &Space, session: &mut Session) -> Outcome {
    let change = allow("server", "later");
    eventually("a change to be taken", || space.apply(&change)).await?;
    let later = format!("spiffe://cluster.local/ns/{}/sa/later", space.name);
    session.until("the change", |known| known.says(&later)).await?;
    Ok(())
}

async fn frozen(world: Arc<World>) -> Outcome {
    let (space, mut session, client) = scene(&world, "frozen", 1).await?;
    let pod = space.run_pod("client", "client", "10.7.1.2").await?;
    let token = space.token("client", Some(&pod), AUDIENCE).await?;
    let before = world.controller(0).memory()?;
    world.api_server().await.freeze()?;
    let outcome = serves(&world, &mut session, &client).await;
    world.api_server().await.thaw()?;
    outcome?;
    ensure!(
        world.controller(0).memory()? < before + GROWTH,
        "an outage takes memory"
    );
    let signed = sign(&world, world.controller(0), &token, &[]).await?;
    ensure!(signed.is_ok(), "no certificate after the outage");
    goes_on(&space, &mut session).await
}

async fn gone(world: Arc<World>) -> Outcome {
    let (space, mut session, client) = scene(&world, "gone", 2).await?;
    let pod = space.run_pod("client", "client", "10.7.2.2").await?;
    let token = space.token("client", Some(&pod), AUDIENCE).await?;
    let before = world.controller(0).memory()?;
    let mut api_server = world.api_server().await;
    api_server.kill();
    let unsigned = unsigned(&world, &token).await;
    let outcome = serves(&world, &mut session, &client).await;
    let log = world.controller(0).log();
    api_server.restart().await?;
    drop(api_server);
    outcome?;
    unsigned?;
    ensure!(
        log.contains("the last state stays in force"),
        "the outage is not logged"
    );
    let lines = log.lines().filter(|line| line.contains("cannot watch")).count();
    ensure!(lines < 50, "the outage is logged {lines} times");
    ensure!(
        world.controller(0).memory()? < before + GROWTH,
        "an outage takes memory"
    );
    goes_on(&space, &mut session).await
}

/// Nobody can say whose the token is, so that it gets nothing now; asking again is worthwhile.
async fn unsigned(world: &World, token: &str) -> Outcome {
    let answer = sign(world, world.controller(0), token, &[]).await?;
    let Err(status) = answer else {
        anyhow::bail!("it was signed");
    };
    ensure!(status.code() == Code::Unavailable, "{status:?}");
    Ok(())
}

async fn absent(world: Arc<World>) -> Outcome {
    let mut api_server = world.api_server().await;
    api_server.kill();
    let controller = world.controller(1);
    controller.restart()?;
    let waits = eventually("the controller to say what it waits for", || async {
        controller.runs()?;
        ensure!(controller.log().contains("trying again"), "it does not");
        Ok(())
    })
    .await;
    let state = controller.page("/health/ready").await;
    api_server.restart().await?;
    drop(api_server);
    waits?;
    ensure!(state?.0 == 503, "ready without knowing the mesh");
    controller.ready().await
}

async fn too_busy(world: Arc<World>) -> Outcome {
    let (space, mut session, client) = scene(&world, "too-busy", 3).await?;
    for object in documents(NOT_NOW)? {
        weir::api::apply(&world.client(), &object, false).await?;
    }
    let controller = world.controller(1);
    controller.restart()?;
    let told = eventually("the API server to say 429", || async {
        ensure!(rejected(&world).await? > 0.0, "it does not");
        controller.runs()
    })
    .await;
    for object in documents(NOT_NOW)? {
        weir::api::delete(&world.client(), &object).await?;
    }
    told?;
    controller.ready().await?;
    let lines = controller.log().lines().count();
    ensure!(lines < 100, "{lines} lines are logged");
    session.drain(Duration::from_millis(100)).await?;
    ensure!(session.has(|known| known.says(&client)), "the last state is gone");
    goes_on(&space, &mut session).await
}

/// How many requests the API server has answered with 429, as it counts them itself.
async fn rejected(world: &World) -> anyhow::Result<f64> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let text = world.client().request_text(request).await?;
    let counts = text.lines().filter(|line| {
        line.starts_with("apiserver_flowcontrol_rejected_requests_total{") && line.contains("not-now")
    });
    Ok(counts
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum())
}
