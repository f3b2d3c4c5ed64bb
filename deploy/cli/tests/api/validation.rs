//! What the validator refuses, warns of, and leaves alone.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::json;

use crate::{
    Outcome, Tests,
    space::Space,
    watches::{allow, session},
    world::{SYSTEM, World},
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.beside(
        "validation::what_would_be_misread_is_refused_with_field_and_remedy",
        refused,
    );
    tests.beside("validation::other_meshes_are_left_alone", left_alone);
    tests.beside("validation::a_wrong_mesh_config_is_refused", mesh_config);
}

async fn refused(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "refused", &["server"]).await?;
    // Who has a certificate is of a namespace that the controller knows: what is of others is not judged.
    session(&space, "server", "10.8.1.1", &[]).await?;
    let good = allow("server", "client");
    let split = "apiVersion: split.smi-spec.io/v1alpha2\nkind: TrafficSplit\nmetadata: {name: split}\nspec:\n  \
                 service: server\n  backends: [{service: v1, weight: 50}]\n";
    let with_matches =
        split.replace("v1alpha2", "v1alpha4") + "  matches: [{kind: HTTPRouteGroup, name: any}]\n";
    let cases = [
        (good.replace("'.*'", "'(unclosed'"), "pathRegex"),
        (with_matches, "spec.matches"),
    ];
    for (yaml, field) in cases {
        let why = space.refused(&yaml).await?;
        ensure!(
            why.contains("weir-validate.k8s.io") && why.contains(field),
            "{field}: {why}"
        );
        ensure!(why.contains("; "), "no remedy: {why}");
    }
    // What a schema can say, the API server says itself.
    let misspelt = good.replace("[{kind: HTTPRouteGroup", "[{kind: HttpRouteGroup");
    let why = space.refused(&misspelt).await?;
    ensure!(why.contains("spec.rules[0].kind"), "{why}");
    space.apply(&good).await?;
    space.apply(split).await
}

async fn left_alone(world: Arc<World>) -> Outcome {
    let wrong = allow("server", "client").replace("'.*'", "'(unclosed'");
    for (name, labels) in [
        ("outside", json!({})),
        ("other-mesh", json!({"openservicemesh.io/monitored-by": "other"})),
    ] {
        let space = Space::with(&world, json!({"name": name, "labels": labels}), &[]).await?;
        space.apply(&wrong).await?;
    }
    Ok(())
}

async fn mesh_config(world: Arc<World>) -> Outcome {
    for (change, field) in [
        (
            json!({"spec": {"certificate": {"serviceCertValidityDuration": "soon"}}}),
            "serviceCertValidityDuration",
        ),
        (
            json!({"spec": {"traffic": {"outboundIPRangeExclusionList": ["10.0.0.0/99"]}}}),
            "outboundIPRangeExclusionList",
        ),
        (
            json!({"spec": {"traffic": {"outboundPortExclusionList": [70000]}}}),
            "outboundPortExclusionList",
        ),
    ] {
        let Err(error) = world.configure(&change).await else {
            anyhow::bail!("{change} is taken");
        };
        ensure!(error.to_string().contains(field), "{field}: {error}");
    }
    let system = Space {
        world: Arc::clone(&world),
        name: SYSTEM.to_owned(),
    };
    let config = system
        .get(
            "config.openservicemesh.io/v1alpha2",
            "MeshConfig",
            "osm-mesh-config",
        )
        .await?;
    ensure!(config.data["spec"]["certificate"]["serviceCertValidityDuration"] != "soon");
    Ok(())
}
