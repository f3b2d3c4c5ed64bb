//! A controller that is away.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures::future::join_all;
use weir_testbed::PodStatus;

use crate::{
    Outcome, Tests, exposition,
    load::Load,
    manifest::{allow_http, member, service, service_of},
    scene::Scene,
    server,
    world::{AWAY, World, within},
};

const PATIENCE: Duration = Duration::from_secs(60);
const WEB: &str = "{name: http-web, port: 8080}";
/// Requests that are made while the controller is away.
const MEANWHILE: usize = 200;

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add_alone("restart::a_killed_controller_costs_no_request", killed);
    tests.add_alone("restart::known_services_go_on_while_the_controller_is_away", away);
}

async fn stage(world: &Arc<World>, namespace: &str) -> anyhow::Result<(Scene, Load)> {
    let parts = [
        member("client"),
        member("other"),
        member("server"),
        service("server", WEB),
        service_of("quiet", "app: server", WEB),
        service_of("unknown", "app: server", WEB),
        allow_http("server", &["client"]),
    ];
    let scene = Scene::open(Arc::clone(world), namespace, &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    let to = scene.service("server", 8080)?;
    let reached = || async { scene.get("client", to, "/").await?.expect(200) };
    scene.eventually("the server is reached", reached).await?;
    let mut load = Load::start(Arc::clone(world), scene.pod("client"), to, "/");
    load.more(MEANWHILE).await?;
    Ok((scene, load))
}

/// Waits until the sidecar says of its stream to the controller that it is so.
async fn connected(world: &World, scene: &Scene, wanted: f64) -> Outcome {
    let pod = scene.pod("client");
    let so = || async {
        let scrape = exposition::sidecar(world, &pod).await?;
        let now = scrape.sum("weir_xds_connected", &[]);
        ensure!(now == wanted, "weir_xds_connected is {now}");
        let age = scrape.sum("weir_config_age_seconds", &[]);
        ensure!((age > 0.0) == (wanted == 0.0), "weir_config_age_seconds is {age}");
        Ok(())
    };
    let what = format!("weir_xds_connected is {wanted}");
    scene.eventually(&what, so).await
}

/// A new policy takes effect: the controller is heard again.
async fn heard(scene: &Scene) -> Outcome {
    let to = scene.service("server", 8080)?;
    let allowed = || async { scene.get("other", to, "/").await?.expect(200).map(drop) };
    scene.eventually("the other client is let in", allowed).await
}

async fn killed(world: Arc<World>) -> Outcome {
    let (scene, mut load) = stage(&world, "restart-killed").await?;
    for _ in 0..2 {
        world.mesh().restart_controller(PATIENCE).await?;
        load.more(MEANWHILE).await?;
        connected(&world, &scene, 1.0).await?;
    }
    scene.apply("more", &[allow_http("server", &["other"])])?;
    heard(&scene).await?;
    load.stop().await.map(drop).with_context(|| scene.evidence())
}

/// How many controllers there are to be.
async fn scale(world: &World, replicas: usize) -> Outcome {
    let file = world.run_dir().join("system/weir-system.yaml");
    let text = fs::read_to_string(&file)?;
    let other = format!("replicas: {}", 1 - replicas);
    ensure!(
        text.contains(&other),
        "the controller's Deployment has not {other}"
    );
    fs::write(&file, text.replace(&other, &format!("replicas: {replicas}")))?;
    let so = |pods: &[PodStatus]| {
        let controllers: Vec<_> = pods.iter().filter(|pod| pod.namespace == "weir-system").collect();
        controllers.len() == replicas && controllers.iter().all(|pod| pod.ready())
    };
    let waited = world.mesh().testbed().wait_for(PATIENCE, so).await;
    waited.map(drop)
}

/// A service that is asked for the first time while nobody can say what it is: refused, and told why.
async fn unknown(world: &World, scene: &Scene) -> Outcome {
    let (pod, to) = (scene.pod("client"), scene.service("unknown", 8080)?);
    let refused = || async {
        let reply = scene.get("client", to, "/").await;
        ensure!(reply.is_err(), "an unknown service answers: {reply:?}");
        Ok(())
    };
    within(PATIENCE, "the refusals", join_all((0..5).map(|_| refused())))
        .await?
        .into_iter()
        .collect::<anyhow::Result<()>>()?;
    let labels = [("reason", "control_plane_silent"), ("direction", "outbound")];
    let scrape = exposition::sidecar(world, &pod).await?;
    let denied = scrape.sum("weir_denied_total", &labels);
    ensure!(denied == 5.0, "{denied} connections were refused for silence");
    let log = world.mesh().testbed().logs(&pod, "weir-proxy")?;
    let told = log
        .lines()
        .filter(|line| line.contains("the control plane did not say") && line.contains(&to.to_string()))
        .count();
    ensure!(told == 1, "the sidecar says {told} times why it refuses");
    // What was known before is known still, although it was not used for longer than it is kept otherwise.
    let quiet = scene.service("quiet", 8080)?;
    scene.get("client", quiet, "/").await?.expect(200).map(drop)
}

async fn away(world: Arc<World>) -> Outcome {
    let (scene, mut load) = stage(&world, AWAY).await?;
    let quiet = scene.service("quiet", 8080)?;
    // In use until the controller is away: what is forgotten before is unknown then.
    let open = || scene.speak("client", quiet);
    let in_use = scene.eventually("the quiet service is reached", open).await?;
    scale(&world, 0).await?;
    // The controller returns whatever is found meanwhile: the other tests need it.
    let meanwhile = async {
        connected(&world, &scene, 0.0).await?;
        drop(in_use);
        load.more(MEANWHILE).await?;
        let to = scene.service("server", 8080)?;
        scene.apply("more", &[allow_http("server", &["other"])])?;
        let status = scene
            .get("other", to, "/")
            .await
            .map(|reply| reply.status.as_u16());
        ensure!(
            !matches!(status, Ok(200)),
            "the other client was let in by nobody"
        );
        let pod = scene.pod("client");
        let age = |scrape: &exposition::Scrape| scrape.sum("weir_config_age_seconds", &[]);
        let first = age(&exposition::sidecar(&world, &pod).await?);
        let grows = || async {
            let now = age(&exposition::sidecar(&world, &pod).await?);
            ensure!(
                now > first,
                "the configuration is {now} s old, and was {first} s old"
            );
            Ok(())
        };
        scene.eventually("the configuration grows old", grows).await?;
        unknown(&world, &scene).await?;
        load.more(MEANWHILE).await
    }
    .await;
    scale(&world, 1).await?;
    meanwhile?;
    connected(&world, &scene, 1.0).await?;
    heard(&scene).await?;
    load.stop().await.map(drop).with_context(|| scene.evidence())
}
