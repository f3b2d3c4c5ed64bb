//! Manifests that are wrong.

use std::sync::Arc;

use anyhow::{Context, ensure};

use crate::{
    Outcome, Tests,
    load::Load,
    manifest::{allow_http, member, routes, service, service_of, split, target},
    scene::Scene,
    server,
    world::World,
};

const WEB: &str = "{name: http-web, port: 8080}";
/// Requests after which a change is taken to have harmed nobody.
const SOME: usize = 100;

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "bad_input::a_wrong_manifest_is_told_by_line_and_field_and_harms_nobody",
        wrong,
    );
    tests.add(
        "bad_input::of_two_splits_for_one_service_the_older_counts",
        splits,
    );
    tests.add(
        "bad_input::of_two_objects_of_one_name_the_first_file_s_counts",
        twice,
    );
}

/// Waits until one line of the controller's log has all of these.
async fn told(world: &World, scene: &Scene, parts: &[&str]) -> Outcome {
    let is_told = || async {
        let log = world.mesh().controller_log();
        let found = log
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)));
        ensure!(found, "no line has all of {parts:?}");
        Ok(())
    };
    scene.eventually("the controller tells of it", is_told).await
}

async fn wrong(world: Arc<World>) -> Outcome {
    let parts = [
        member("client"),
        member("other"),
        member("server"),
        service("server", WEB),
    ];
    let scene = Scene::open(Arc::clone(&world), "bad-input", &parts).await?;
    let good = allow_http("server", &["client"]);
    scene.apply("policy", std::slice::from_ref(&good))?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    let to = scene.service("server", 8080)?;
    let reached = || async { scene.get("client", to, "/").await?.expect(200) };
    scene.eventually("the server is reached", reached).await?;
    let mut load = Load::start(Arc::clone(&world), scene.pod("client"), to, "/");
    load.more(SOME).await?;

    // Not YAML: what was last read of the file stays in force.
    let last = good.lines().count() + 1;
    scene.apply("policy", &[good.clone(), "  broken: [no, end\n".to_owned()])?;
    let place = format!("bad-input-policy.yaml:{last}:");
    told(&world, &scene, &["error: ", &place, "; "]).await?;
    load.more(SOME).await?;

    // YAML, but not as its kind demands: what was last read of the object stays in force.
    scene.apply("policy", &[good.replace("'.*'", "'(unclosed'")])?;
    let field = "spec.matches[0].pathRegex: ";
    told(
        &world,
        &scene,
        &["error: ", "bad-input-policy.yaml:6:", field, "; "],
    )
    .await?;
    load.more(SOME).await?;
    scene.apply("policy", &[good])?;

    // Names of what does not exist: the object, or the part of it, is not in force; all else is.
    scene.apply("split", &[split("server", &[("server", 50), ("missing", 50)])])?;
    let parts = [
        "error: ",
        "bad-input-split.yaml:7:",
        "TrafficSplit bad-input/server: spec.backends[1].service: there is no Service bad-input/missing",
        "; name a Service of namespace bad-input that has endpoints in the mesh, or create it",
    ];
    told(&world, &scene, &parts).await?;
    load.more(SOME).await?;
    scene.apply(
        "target",
        &[target("server", &["other"], "HTTPRouteGroup", "nowhere", "any")],
    )?;
    let parts = [
        "error: ",
        "bad-input-target.yaml:7:",
        "spec.rules[0].name: there is no HTTPRouteGroup bad-input/nowhere; nothing is allowed by it",
    ];
    told(&world, &scene, &parts).await?;
    load.more(SOME).await?;
    let other = scene
        .get("other", to, "/")
        .await
        .map(|reply| reply.status.as_u16());
    ensure!(
        !matches!(other, Ok(200)),
        "a route that does not exist let a client in"
    );

    // A kind that is misspelt, and a mesh that goes on to take changes.
    scene.apply(
        "target",
        &[routes("nowhere", "{name: any, pathRegex: '.*', methods: ['*']}")
            .replace("HTTPRouteGroup", "HttpRouteGroup")],
    )?;
    told(&world, &scene, &["bad-input-target.yaml:", "HttpRouteGroup"]).await?;
    scene.apply(
        "target",
        &[allow_http("server", &["other"]).replace("server-any", "more-any")],
    )?;
    let let_in = || async { scene.get("other", to, "/").await?.expect(200) };
    scene.eventually("the other client is let in", let_in).await?;
    load.stop().await.map(drop).with_context(|| scene.evidence())
}

/// A service and two that may stand in for it.
async fn stand_ins(world: &Arc<World>, namespace: &str) -> anyhow::Result<Scene> {
    let mut parts = vec![member("client"), service_of("apex", "app: v1", WEB)];
    for backend in ["v1", "v2"] {
        parts.extend([
            member(backend),
            service(backend, WEB),
            allow_http(backend, &["client"]),
        ]);
    }
    let scene = Scene::open(Arc::clone(world), namespace, &parts).await?;
    for backend in ["v1", "v2"] {
        scene.serve(server::http(scene.listen(backend, 8080).await?, backend));
    }
    Ok(scene)
}

/// Waits until requests are answered by this one, and then a few more are.
async fn answers(scene: &Scene, backend: &str) -> Outcome {
    let to = scene.service("apex", 8080)?;
    let once = || async {
        let reply = scene.get("client", to, "/").await?.expect(200)?;
        ensure!(reply.body == backend, "{} answers", reply.body);
        Ok(())
    };
    scene.eventually(&format!("{backend} answers"), once).await?;
    for _ in 0..20 {
        once().await?;
    }
    Ok(())
}

async fn splits(world: Arc<World>) -> Outcome {
    let scene = stand_ins(&world, "bad-splits").await?;
    let named = |name: &str, backend: &str| {
        split("apex", &[(backend, 100)]).replace("{name: apex,", &format!("{{name: {name},"))
    };
    scene.apply("one", &[named("second", "v1")])?;
    answers(&scene, "v1").await?;
    // Neither has an age: the first by name.
    scene.apply("two", &[named("first", "v2")])?;
    let parts = [
        "warning: ",
        "bad-splits-one.yaml:6:",
        "TrafficSplit bad-splits/second: spec.service: ",
        "bad-splits/first already; this split is ignored; remove one of them",
    ];
    told(&world, &scene, &parts).await?;
    answers(&scene, "v2").await?;
    // One that has an age is older than one that has none.
    let old = named("second", "v1").replace(
        "{name: second,",
        "{creationTimestamp: '2024-01-01T00:00:00Z', name: second,",
    );
    scene.apply("one", &[old])?;
    let parts = [
        "warning: ",
        "bad-splits-two.yaml:6:",
        "bad-splits/second already; this split is ignored",
    ];
    told(&world, &scene, &parts).await?;
    answers(&scene, "v1").await?;
    scene.remove("one")?;
    answers(&scene, "v2").await
}

async fn twice(world: Arc<World>) -> Outcome {
    let scene = stand_ins(&world, "bad-twice").await?;
    scene.apply("second", &[split("apex", &[("v2", 100)])])?;
    answers(&scene, "v2").await?;
    scene.apply("first", &[split("apex", &[("v1", 100)])])?;
    let parts = [
        "warning: ",
        "bad-twice-second.yaml:",
        "TrafficSplit bad-twice/apex: metadata.name: the object is already in ",
        "bad-twice-first.yaml; this one is ignored; remove one of them, or rename it",
    ];
    told(&world, &scene, &parts).await?;
    answers(&scene, "v1").await?;
    scene.remove("first")?;
    answers(&scene, "v2").await
}
