//! From an empty cluster through install and upgrade back to an empty cluster.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::{Context, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    discovery::{Discovery, verbs},
};
use weir::api::FIELD_MANAGER;
use weir_cluster::{ApiServer, process::Process};

use crate::{
    Outcome, Tests,
    controller::Controller,
    world::{SYSTEM, World, eventually, weir},
};

const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.beside(
        "lifecycle::uninstall_leaves_nothing_of_install_and_upgrade",
        whole,
    );
}

async fn whole(world: Arc<World>) -> Outcome {
    let directory = tempfile::tempdir()?;
    let api_server = ApiServer::start(world.programs(), &directory.path().join("api-server")).await?;
    let kubeconfig = api_server.kubeconfig();
    // Namespaces go, and Deployments have pods, where the cluster's own controllers run.
    let manager = world.programs().join(CONTROLLER_MANAGER);
    let manager = match manager.is_file() {
        true => Some(start_manager(&manager, kubeconfig, directory.path())?),
        false => None,
    };
    let client = api_server.client();

    let dry = weir(kubeconfig, &["install", "--dry-run"]).await?;
    ensure!(dry.contains("Deployment"), "{dry}");
    let made = of_the_mesh(&client).await?;
    ensure!(made.is_empty(), "a dry run makes {made:?}");
    weir(kubeconfig, &["install", "--no-wait"]).await?;
    let installed = of_the_mesh(&client).await?;
    ensure!(installed.len() > 20, "{installed:?}");
    run_once(&api_server, directory.path()).await?;
    let again = weir(kubeconfig, &["install", "--no-wait"]).await?;
    let changed = again
        .lines()
        .find(|line| line.ends_with(" created") || line.ends_with(" changed"));
    ensure!(
        changed.is_none(),
        "a second install changes something: {changed:?}"
    );

    let egress = [
        "upgrade",
        "--no-wait",
        "--set",
        "meshConfig.spec.traffic.enableEgress=false",
    ];
    weir(kubeconfig, &egress).await?;
    let config = serde_json::from_value(serde_json::json!({
        "apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig",
        "metadata": {"namespace": SYSTEM}}))?;
    let config = weir::api::api_of(&client, &config)?
        .get("osm-mesh-config")
        .await?;
    ensure!(
        config.data["spec"]["traffic"]["enableEgress"] == false,
        "{:?}",
        config.data
    );

    let mut uninstall = vec!["uninstall", "--force", "--delete-crds", "--timeout=60s"];
    if manager.is_none() {
        uninstall.push("--keep-namespace");
    }
    weir(kubeconfig, &uninstall).await?;
    eventually("nothing to be left", || async {
        let mut left = of_the_mesh(&client).await?;
        if manager.is_none() {
            left.remove(&format!("Namespace {SYSTEM}"));
        }
        ensure!(left.is_empty(), "left are {left:?}");
        Ok(())
    })
    .await?;
    let twice = weir(kubeconfig, &["uninstall", "--force", "--delete-crds"]).await;
    ensure!(twice.is_ok() || manager.is_none(), "{twice:?}");
    Ok(())
}

fn start_manager(program: &Path, kubeconfig: &Path, directory: &Path) -> anyhow::Result<Process> {
    let pki = kubeconfig.parent().context("no directory")?;
    let flags = [
        format!("--kubeconfig={}", kubeconfig.display()),
        format!(
            "--service-account-private-key-file={}",
            pki.join("tokens.key").display()
        ),
        format!("--root-ca-file={}", pki.join("ca.crt").display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    Process::start(program, flags, &directory.join("kube-controller-manager.log"))
}

/// Has a controller make what controllers make: the Secret, the Lease, caBundle.
async fn run_once(api_server: &ApiServer, directory: &Path) -> Outcome {
    let account = format!("system:serviceaccount:{SYSTEM}:weir-controller");
    let kubeconfig = api_server.kubeconfig_for("controller", &account, None)?;
    let controller = Controller::start("once", &kubeconfig, directory)?;
    controller.ready().await?;
    let made = eventually("the Secret and the Lease to be made", || async {
        let all = of_the_mesh(&api_server.client()).await?;
        for object in [
            format!("Secret {SYSTEM}/weir-ca-bundle"),
            format!("Lease {SYSTEM}/weir-controller"),
        ] {
            ensure!(all.contains(&object), "there is no {object}");
        }
        Ok(())
    });
    made.await.with_context(|| controller.evidence())
}

/// Every object that is in the mesh's namespace or that `weir` wrote, as it names them. The cluster makes others at any time.
async fn of_the_mesh(client: &Client) -> anyhow::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let discovery = Discovery::new(client.clone()).run().await?;
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if !capabilities.supports_operation(verbs::LIST) || resource.kind == "Event" {
                continue;
            }
            let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
            // A kind may go between the two questions.
            let Ok(list) = api.list_metadata(&ListParams::default()).await else {
                continue;
            };
            let objects = list.items.iter().map(|object| &object.metadata);
            all.extend(objects.filter(|object| is_of_the_mesh(object)).map(|object| {
                let name = object.name.as_deref().unwrap_or_default();
                match &object.namespace {
                    Some(namespace) => format!("{} {namespace}/{name}", resource.kind),
                    None => format!("{} {name}", resource.kind),
                }
            }));
        }
    }
    Ok(all)
}

fn is_of_the_mesh(object: &ObjectMeta) -> bool {
    // Every namespace gets these from the cluster, sooner or later.
    let given = ["kube-root-ca.crt", "default"].map(|name| Some(name.to_owned()));
    let inside = object.namespace.as_deref() == Some(SYSTEM) && !given.contains(&object.name);
    let mut managers = object
        .managed_fields
        .iter()
        .flatten()
        .filter_map(|field| field.manager.as_deref());
    inside || managers.any(|manager| manager == FIELD_MANAGER)
}
