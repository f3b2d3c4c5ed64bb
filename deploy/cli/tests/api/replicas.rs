//! Two controllers: one root, one writer, and nothing lost when one goes.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, coordination::v1::Lease, core::v1::Pod,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use weir_xds::ResourceType;

use crate::{
    Outcome, Tests,
    client::{Session, sign},
    pods::AUDIENCE,
    space::Space,
    watches::{allow, service, slice},
    world::{SYSTEM, World, eventually},
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    // Until it is mended, the API server cannot call anybody's webhook.
    tests.alone("replicas::an_emptied_ca_bundle_is_filled_at_once", bundle);
    tests.alone("replicas::another_replica_leads_when_the_leader_goes", failover);
    tests.alone(
        "replicas::one_that_stops_says_so_and_serves_a_little_longer",
        leaving,
    );
    tests.alone("replicas::a_restarted_replica_has_the_same_root", restart);
    tests.alone("replicas::many_that_start_at_once_share_one_root", race);
}

async fn holder(world: &World) -> anyhow::Result<String> {
    let leases = Api::<Lease>::namespaced(world.client(), SYSTEM);
    let lease = leases.get("weir-controller").await?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity);
    holder.filter(|name| !name.is_empty()).context("nobody leads")
}

async fn bundle(world: Arc<World>) -> Outcome {
    let api = Api::<MutatingWebhookConfiguration>::all(world.client());
    let roots = world.roots().await?;
    for bundle in [json!(null), json!("bm90IGEgcm9vdA==")] {
        // Emptied as by a tool that applies the manifest anew. A bundle that is no PEM is refused by the API server.
        let patch =
            json!({"webhooks": [{"name": "weir-inject.k8s.io", "clientConfig": {"caBundle": bundle}}]});
        let _refused_or_not = api
            .patch("weir-injector", &PatchParams::default(), &Patch::Strategic(patch))
            .await;
        eventually("caBundle to be current", || async {
            ensure!(world.bundles().await?[0].as_ref() == Some(&roots), "it is not");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn failover(world: Arc<World>) -> Outcome {
    let leader = eventually("a leader", || holder(&world)).await?;
    let of = |name: &str| (0..2).find(|index| world.controller(*index).name == name);
    let leader_index = of(&leader).with_context(|| format!("{leader} leads"))?;
    let space = Space::open(&world, "failover", &["client", "server"]).await?;
    let condition = async |name: &str| {
        space.apply(&service(name)).await?;
        space.apply(&allow(name, "client")).await?;
        eventually("the status to be written", || async {
            let object = space
                .get(
                    "access.smi-spec.io/v1alpha3",
                    "TrafficTarget",
                    &format!("{name}-client"),
                )
                .await?;
            object
                .data
                .pointer("/status/conditions/0")
                .context("no condition")?;
            Ok(())
        })
        .await
    };
    condition("before").await?;
    // One that stops gives the lease back: the other need not wait for it to run out.
    world.controller(leader_index).terminate()?;
    let begun = std::time::Instant::now();
    eventually("the other to lead", || async {
        let now = holder(&world).await?;
        ensure!(now != leader, "{now} leads still");
        Ok(())
    })
    .await?;
    let took = begun.elapsed();
    condition("after").await?;
    world.controller(leader_index).restart()?;
    world.controller(leader_index).ready().await?;
    ensure!(took.as_secs() < 8, "it took {took:?}");
    // The one that came back does not take what another holds.
    ensure!(holder(&world).await? != leader, "two lead in turns");
    // One that is killed gives nothing back.
    let second = holder(&world).await?;
    let second_index = of(&second).with_context(|| format!("{second} leads"))?;
    world.controller(second_index).kill();
    eventually("the lease to run out", || async {
        ensure!(holder(&world).await? != second, "{second} leads still");
        Ok(())
    })
    .await?;
    world.controller(second_index).restart()?;
    world.controller(second_index).ready().await
}

async fn restart(world: Arc<World>) -> Outcome {
    let roots = world.roots().await?;
    let space = Space::open(&world, "restart", &["client", "server"]).await?;
    space.apply(&service("server")).await?;
    space.apply(&slice("server", &[("server", "10.6.1.1")])).await?;
    let pod: Pod = space.run_pod("client", "client", "10.6.1.2").await?;
    let uid = pod.uid().context("no UID")?;
    let token = space.token("client", Some(&pod), AUDIENCE).await?;
    let signed = sign(&world, world.controller(0), &token, &[])
        .await?
        .context("a good token is refused")?;
    for index in [0, 1] {
        let controller = world.controller(index);
        controller.restart()?;
        controller.ready().await?;
        // The certificate of before is believed, by a replica that has never seen it.
        let wanted = [(ResourceType::Listener, "outbound")];
        let mut session = Session::open(&world, controller, &signed, &uid, &wanted).await?;
        session
            .until("the configuration", |known| {
                known.has("inbound") && known.has("outbound")
            })
            .await?;
    }
    ensure!(world.roots().await? == roots, "the root is another");
    Ok(())
}

async fn race(world: Arc<World>) -> Outcome {
    let before = world.roots().await?;
    for index in [0, 1] {
        world.controller(index).kill();
    }
    let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(world.client(), SYSTEM);
    secrets.delete("weir-ca-bundle", &DeleteParams::default()).await?;
    for index in [0, 1] {
        world.controller(index).restart()?;
    }
    for index in [0, 1] {
        world.controller(index).ready().await?;
    }
    let roots = world.roots().await?;
    ensure!(roots != before, "the root is that of before");
    let space = Space::open(&world, "one-root", &["client"]).await?;
    eventually("the webhooks to be trusted", || async {
        ensure!(
            world.bundles().await? == [Some(roots.clone()), Some(roots.clone())],
            "they are not"
        );
        Ok(())
    })
    .await?;
    // The API server keeps a connection, and with it what it trusted, for a moment.
    let pod = eventually("the injector to be called", || {
        space.run_pod("client", "client", "10.6.2.1")
    })
    .await?;
    let uid = pod.uid().context("no UID")?;
    let token = space.token("client", Some(&pod), AUDIENCE).await?;
    for (signer, server) in [(0, 1), (1, 0)] {
        let signed = sign(&world, world.controller(signer), &token, &[])
            .await?
            .context("refused")?;
        let mut session = Session::open(&world, world.controller(server), &signed, &uid, &[]).await?;
        session
            .until("the inbound listener", |known| known.has("inbound"))
            .await?;
    }
    Ok(())
}

async fn leaving(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "leaving", &["client", "server"]).await?;
    space.apply(&service("server")).await?;
    space.apply(&slice("server", &[("server", "10.6.3.1")])).await?;
    let pod: Pod = space.run_pod("server", "server", "10.6.3.1").await?;
    let uid = pod.uid().context("no UID")?;
    let token = space.token("server", Some(&pod), AUDIENCE).await?;
    let controller = world.controller(1);
    let signed = sign(&world, controller, &token, &[])
        .await?
        .context("a good token is refused")?;
    let wanted = [(ResourceType::Route, "inbound|8080")];
    let mut session = Session::open(&world, controller, &signed, &uid, &wanted).await?;
    session
        .until("the listener", |known| known.has("inbound"))
        .await?;

    controller.terminate()?;
    eventually("the replica to say that it stops", || async {
        let (status, body) = controller.page("/health/ready").await?;
        ensure!(status == 503 && body.contains("stopping"), "{status}: {body}");
        Ok(())
    })
    .await?;
    // Until its last connections have moved, what changes still reaches those who are there.
    space.apply(&allow("server", "client")).await?;
    let client = "spiffe://cluster.local/ns/leaving/sa/client";
    session.until("the policy", |known| known.says(client)).await?;
    let mut session = Session::open(&world, world.controller(0), &signed, &uid, &wanted).await?;
    session
        .until("the policy elsewhere", |known| known.says(client))
        .await?;
    eventually("the replica to end", || async {
        ensure!(controller.runs().is_err(), "it runs still");
        Ok(())
    })
    .await?;
    controller.restart()?;
    controller.ready().await
}
