//! A sidecar holds what its pod uses, not what the mesh has.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    Outcome, Tests, exposition,
    manifest::{allow_http, member, service, service_of},
    scene::Scene,
    server,
    world::{FORGETFUL, World},
};

const ADMIN: u16 = 15000;
const WEB: &str = "{name: http-web, port: 8080}";
/// Services that nobody uses.
const UNUSED: usize = 60;

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add("on_demand::a_sidecar_holds_only_what_its_pod_uses", used);
    tests.add("on_demand::a_service_made_later_works_at_once", later);
    tests.add("on_demand::what_is_not_used_any_more_is_forgotten", forgotten);
}

/// The names of the resources that came from the controller, by the section and key of the config dump.
async fn held(world: &World, pod: &str) -> anyhow::Result<BTreeSet<String>> {
    let page = world.mesh().get_local(pod, ADMIN, "/config_dump").await?;
    let page: Value = serde_json::from_str(&page.body)?;
    let sections = page["configs"].as_array().context("no sections")?;
    let entries = sections
        .iter()
        .filter_map(Value::as_object)
        .flatten()
        .filter(|(key, _)| key.starts_with("dynamic_"))
        .filter_map(|(_, entries)| entries.as_array())
        .flatten();
    Ok(entries
        .filter_map(|entry| entry["name"].as_str())
        .map(str::to_owned)
        .collect())
}

/// Of these names, those of this namespace and of addresses.
fn own(names: &BTreeSet<String>, namespace: &str) -> BTreeSet<String> {
    let own = format!("{namespace}/");
    let own = |name: &&String| name.contains(&own) || name.parse::<SocketAddr>().is_ok();
    names.iter().filter(own).cloned().collect()
}

async fn used(world: Arc<World>) -> Outcome {
    let mut parts = vec![
        member("client"),
        member("server"),
        allow_http("server", &["client"]),
    ];
    for name in ["one", "two"] {
        parts.push(service_of(name, "app: server", WEB));
    }
    for number in 0..UNUSED {
        parts.push(service_of(&format!("unused-{number}"), "app: server", WEB));
    }
    let scene = Scene::open(Arc::clone(&world), "demand", &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    let client = scene.pod("client");
    let own = |names: &BTreeSet<String>| own(names, "demand");
    let before = held(&world, &client).await?;
    ensure!(before.contains("inbound"), "the sidecar holds {before:?}");
    ensure!(
        own(&before).is_empty(),
        "nothing is used yet, but held: {before:?}"
    );

    let mut wanted = BTreeSet::new();
    for name in ["one", "two"] {
        let to = scene.service(name, 8080)?;
        let reached = || async { scene.get("client", to, "/").await?.expect(200) };
        scene.eventually(&format!("{name} is reached"), reached).await?;
        wanted.extend([to.to_string(), format!("demand/{name}|8080")]);
        let now = own(&held(&world, &client).await?);
        ensure!(now == wanted, "{wanted:?} is used, {now:?} is held");
    }
    let scrape = exposition::sidecar(&world, &client).await?;
    let services: Vec<_> = scrape
        .of("weir_endpoints", &[])
        .filter_map(|sample| sample.labels.get("service"))
        .filter(|service| service.contains("unused"))
        .collect();
    ensure!(services.is_empty(), "endpoints of {services:?} are held");
    // A change of what is not used reaches nobody who does not use it.
    let versions = |scrape: &exposition::Scrape| {
        let updates = scrape.of("weir_config_updates_total", &[("type", "endpoints")]);
        updates.map(|sample| sample.value).sum::<f64>()
    };
    let updates = versions(&exposition::sidecar(&world, &client).await?);
    scene.apply("more", &[service_of("unused-more", "app: server", WEB)])?;
    let observed = || async { scene.cluster_ips("unused-more").map(drop) };
    scene.eventually("the Service is observed", observed).await?;
    let to = scene.service("one", 8080)?;
    scene.get("client", to, "/").await?.expect(200)?;
    let now = versions(&exposition::sidecar(&world, &client).await?);
    ensure!(now == updates, "the sidecar was told {} times", now - updates);
    Ok(())
}

async fn later(world: Arc<World>) -> Outcome {
    let parts = [
        member("client"),
        member("server"),
        allow_http("server", &["client"]),
    ];
    let scene = Scene::open(Arc::clone(&world), "demand-later", &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    for number in 0..3 {
        let name = format!("late-{number}");
        scene.apply(&name, &[service_of(&name, "app: server", WEB)])?;
        let observed = || async { scene.service(&name, 8080) };
        let to = scene.eventually("the Service has its address", observed).await?;
        let reached = || async { scene.get("client", to, "/").await?.expect(200) };
        scene.eventually(&format!("{name} is reached"), reached).await?;
    }
    // And one with a pod of its own.
    scene.apply(
        "pod",
        &[
            member("newcomer"),
            service("newcomer", WEB),
            allow_http("newcomer", &["client"]),
        ],
    )?;
    scene.ready().await?;
    scene.serve(server::http(scene.listen("newcomer", 8080).await?, "newcomer"));
    let to = scene.service("newcomer", 8080)?;
    let reached = || async { scene.get("client", to, "/").await?.expect(200) };
    let reply = scene.eventually("the newcomer is reached", reached).await?;
    ensure!(reply.body == "newcomer", "{} answers", reply.body);
    Ok(())
}

/// In a namespace whose sidecars forget soon.
async fn forgotten(world: Arc<World>) -> Outcome {
    let mut parts = vec![
        member("client"),
        member("server"),
        allow_http("server", &["client"]),
    ];
    for name in ["kept", "left"] {
        parts.push(service_of(name, "app: server", WEB));
    }
    let scene = Scene::open(Arc::clone(&world), FORGETFUL, &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    let client = scene.pod("client");
    let (kept, left) = (scene.service("kept", 8080)?, scene.service("left", 8080)?);
    let names =
        |name: &str, at: SocketAddr| BTreeSet::from([at.to_string(), format!("{FORGETFUL}/{name}|8080")]);
    let open = || scene.speak("client", kept);
    let mut always = scene.eventually("the kept service is reached", open).await?;
    for _ in 0..2 {
        let open = || scene.speak("client", left);
        // What a connection is open to is in use, however late the look at it comes.
        let meanwhile = scene.eventually("the left service is reached", open).await?;
        always.ask("kept").await?;
        let now = own(&held(&world, &client).await?, FORGETFUL);
        let both = &names("kept", kept) | &names("left", left);
        ensure!(now == both, "{both:?} is used, {now:?} is held");
        drop(meanwhile);
        let idle = || async {
            let now = own(&held(&world, &client).await?, FORGETFUL);
            ensure!(now == names("kept", kept), "{now:?} is held");
            Ok(())
        };
        scene.eventually("what is not used is forgotten", idle).await?;
    }
    let scrape = exposition::sidecar(&world, &client).await?;
    let counted = scrape.of("weir_endpoints", &[]).any(|sample| {
        let service = sample.labels.get("service");
        service.is_some_and(|service| service.contains("left"))
    });
    ensure!(!counted, "endpoints of what is not used are held");
    Ok(())
}
