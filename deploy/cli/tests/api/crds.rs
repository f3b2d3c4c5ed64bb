//! The mesh's kinds, in every version that is served.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt, api::ListParams};

use crate::{
    Outcome, Tests,
    space::{Space, documents},
    world::{SYSTEM, World},
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.beside("crds::all_are_established_with_structural_schemas", established);
    tests.beside(
        "crds::a_mesh_config_of_the_old_version_is_the_same_object",
        mesh_config,
    );
    tests.beside(
        "crds::a_traffic_split_of_a_later_version_is_the_same_object",
        split,
    );
    tests.beside("crds::osms_objects_keep_every_field", whole);
    tests.beside("crds::the_bookstore_applies_unchanged", bookstore);
}

const OSMS: &str = r"
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: httpbin}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: osms-objects}]
  hosts: [httpbin.example.com]
  ports: [{number: 80, protocol: http}]
  matches: [{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: paths}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: IngressBackend
metadata: {name: backend}
spec:
  backends: [{name: httpbin, port: {number: 14001, protocol: https}, tls: {skipClientCertValidation: false, sniHosts: [httpbin]}}]
  sources: [{kind: Service, name: ingress, namespace: ingress-system}, {kind: AuthenticatedPrincipal, name: ingress.ns.cluster.local}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Retry
metadata: {name: retry}
spec:
  source: {kind: ServiceAccount, name: curl, namespace: osms-objects}
  destinations: [{kind: Service, name: httpbin, namespace: osms-objects}]
  retryPolicy: {retryOn: 5xx, perTryTimeout: 1s, numRetries: 5, retryBackoffBaseInterval: 1s}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: UpstreamTrafficSetting
metadata: {name: setting}
spec:
  host: httpbin.osms-objects.svc.cluster.local
  connectionSettings:
    tcp: {maxConnections: 1, connectTimeout: 2s}
    http: {maxRequests: 1, maxPendingRequests: 1, maxRetries: 1, maxRequestsPerConnection: 1}
  rateLimit:
    local:
      tcp: {connections: 1, unit: minute, burst: 10}
      http: {requests: 3, unit: minute, burst: 10, responseStatusCode: 503, responseHeadersToAdd: [{name: a, value: b}]}
  httpRoutes:
  - path: /get
    rateLimit: {local: {requests: 3, unit: minute}}
";

async fn established(world: Arc<World>) -> Outcome {
    let api = Api::<CustomResourceDefinition>::all(world.client());
    let all = api
        .list(&ListParams::default().labels("app.kubernetes.io/part-of=weir"))
        .await?;
    ensure!(all.items.len() == 10, "{} definitions", all.items.len());
    for definition in all {
        let name = definition.name_any();
        let conditions = definition
            .status
            .context("no status")?
            .conditions
            .unwrap_or_default();
        let is = |kind: &str| {
            conditions
                .iter()
                .any(|it| it.type_ == kind && it.status == "True")
        };
        ensure!(is("Established") && is("NamesAccepted"), "{name}: {conditions:?}");
        ensure!(!is("NonStructuralSchema"), "{name}: {conditions:?}");
    }
    Ok(())
}

async fn mesh_config(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "old-config", &[]).await?;
    space
        .apply(
            "apiVersion: config.openservicemesh.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: old}\nspec:\n  \
             traffic: {enableEgress: true, outboundPortExclusionList: [6379]}\n  sidecar: {logLevel: debug}\n",
        )
        .await?;
    let read = async |version: &str| {
        let version = format!("config.openservicemesh.io/{version}");
        anyhow::Ok(space.get(&version, "MeshConfig", "old").await?.data["spec"].clone())
    };
    let (old, new) = (read("v1alpha1").await?, read("v1alpha2").await?);
    ensure!(old == new, "{old} is not {new}");
    ensure!(
        new["traffic"]["outboundPortExclusionList"][0] == 6379 && new["sidecar"]["logLevel"] == "debug",
        "{new}"
    );
    let system = Space {
        world,
        name: SYSTEM.to_owned(),
    };
    system
        .get(
            "config.openservicemesh.io/v1alpha1",
            "MeshConfig",
            "osm-mesh-config",
        )
        .await?;
    Ok(())
}

async fn split(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "later-split", &[]).await?;
    space
        .apply(
            "apiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata: {name: split}\nspec:\n  service: \
             server\n  backends: [{service: v1, weight: 90}, {service: v2, weight: 10}]\n",
        )
        .await?;
    let older = space
        .get("split.smi-spec.io/v1alpha2", "TrafficSplit", "split")
        .await?;
    ensure!(
        older.data["spec"]["backends"][1]["weight"] == 10,
        "{:?}",
        older.data
    );
    Ok(())
}

async fn whole(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "osms-objects", &["curl"]).await?;
    for object in documents(OSMS)? {
        let sent = object.data["spec"].clone();
        let kept = space.put(object).await?.data["spec"].clone();
        ensure!(kept == sent, "{kept} instead of {sent}");
    }
    Ok(())
}

async fn bookstore(world: Arc<World>) -> Outcome {
    let space = Space {
        world,
        name: "default".to_owned(),
    };
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo");
    let mut files = vec![demo.join("manifests/namespaces.yaml")];
    for directory in ["manifests", "policies"] {
        let entries = fs::read_dir(demo.join(directory))?;
        files.extend(
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<Vec<_>>>()?,
        );
    }
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for object in documents(&text)? {
            // The one that counts is shared by all tests.
            if object
                .types
                .as_ref()
                .is_some_and(|types| types.kind == "MeshConfig")
            {
                continue;
            }
            space
                .put(object)
                .await
                .with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}
