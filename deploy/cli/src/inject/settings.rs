//! What goes into a sidecar without a webhook that knows it: said by flags, or read from the cluster.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};
use clap::ArgGroup;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;
use weir_controller::{
    injector::Settings,
    spec::{MeshConfig, MeshConfigSpec},
};

use crate::{
    api::{self, explain},
    manifests::{CA_SECRET, CONTROLLER, Values},
};

/// The oldest minor version of Kubernetes 1 that runs native sidecars by default.
const NATIVE: u32 = 29;

#[derive(clap::Args, Clone, Debug)]
#[command(group = ArgGroup::new("source").required(true))]
pub(crate) struct SettingsArgs {
    /// Read everything below from the mesh in the cluster.
    #[arg(long, group = "source", conflicts_with_all = ["mesh_name", "trust_domain", "proxy_image", "init_image", "mesh_config", "classic"])]
    from_cluster: bool,
    /// The mesh's root certificates, PEM: the ca.crt of Secret weir-ca-bundle.
    #[arg(long, value_name = "FILE", group = "source")]
    trust_bundle: Option<PathBuf>,
    /// A file with the mesh's MeshConfig.
    #[arg(long, value_name = "FILE")]
    mesh_config: Option<PathBuf>,
    /// Name of the mesh [default: osm].
    #[arg(long, value_name = "NAME")]
    mesh_name: Option<String>,
    /// SPIFFE trust domain [default: cluster.local].
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// Image of the sidecar [default: weir-proxy of this version].
    #[arg(long, value_name = "IMAGE")]
    proxy_image: Option<String>,
    /// Image of the init container [default: weir-init of this version].
    #[arg(long, value_name = "IMAGE")]
    init_image: Option<String>,
    /// Lay the pod out for Kubernetes before 1.29, where sidecars are ordinary containers.
    #[arg(long)]
    classic: bool,
}

impl SettingsArgs {
    /// What the flags say, or the cluster.
    ///
    /// # Errors
    /// When a file cannot be read, or the cluster has no mesh.
    pub(crate) async fn settings(&self, cluster: &api::Options) -> anyhow::Result<Settings> {
        match &self.trust_bundle {
            Some(file) => self.by_flags(file, &cluster.namespace),
            None => from_cluster(&api::connect(cluster).await?, &cluster.namespace).await,
        }
    }

    fn by_flags(&self, trust_bundle: &PathBuf, namespace: &str) -> anyhow::Result<Settings> {
        let read = |file: &PathBuf| {
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        };
        let trust_bundle_pem = read(trust_bundle)?;
        if !trust_bundle_pem.contains("-----BEGIN CERTIFICATE-----") {
            bail!("{} holds no PEM certificate", trust_bundle.display());
        }
        let defaults = Values::new(&[])?;
        let mut settings = Settings {
            mesh_namespace: namespace.to_owned(),
            trust_bundle: trust_bundle_pem,
            proxy_image: self
                .proxy_image
                .clone()
                .unwrap_or_else(|| defaults.image("weir-proxy")),
            init_image: self
                .init_image
                .clone()
                .unwrap_or_else(|| defaults.image("weir-init")),
            native_sidecars: !self.classic,
            ..Settings::default()
        };
        if let Some(name) = &self.mesh_name {
            settings.mesh_name.clone_from(name);
        }
        if let Some(name) = &self.trust_domain {
            settings.trust_domain.clone_from(name);
        }
        match &self.mesh_config {
            None => Ok(settings),
            Some(file) => {
                let failed = || format!("{} is not a MeshConfig", file.display());
                let config: MeshConfig = serde_saphyr::from_str(&read(file)?).with_context(failed)?;
                Ok(settings.with_mesh_config(&config.spec))
            }
        }
    }
}

async fn from_cluster(client: &Client, namespace: &str) -> anyhow::Result<Settings> {
    let missing =
        || format!("there is no mesh in namespace {namespace}; run `weir install`, or say --trust-bundle");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deployment = deployments
        .get_opt(CONTROLLER)
        .await
        .map_err(explain)?
        .with_context(missing)?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = secrets.get_opt(CA_SECRET).await.map_err(explain)?;
    let bundle = secret.and_then(|secret| secret.data?.remove("ca.crt"));
    let bundle = bundle.with_context(|| {
        format!("Secret {namespace}/{CA_SECRET} has no ca.crt yet; wait until a controller runs")
    })?;
    let version = client.apiserver_version().await.map_err(explain)?;
    let minor = version.minor.trim_end_matches('+').parse::<u32>().ok();
    let arguments = arguments(&deployment);
    let argument = |flag: &str, default: &str| {
        let found = arguments
            .iter()
            .find_map(|it| it.strip_prefix(flag)?.strip_prefix('='));
        found.unwrap_or(default).to_owned()
    };
    let defaults = Settings::default();
    let settings = Settings {
        mesh_namespace: namespace.to_owned(),
        trust_bundle: String::from_utf8(bundle.0).context("ca.crt is not text")?,
        mesh_name: argument("--mesh-name", &defaults.mesh_name),
        trust_domain: argument("--trust-domain", &defaults.trust_domain),
        proxy_image: argument("--proxy-image", &defaults.proxy_image),
        init_image: argument("--init-image", &defaults.init_image),
        image_pull_policy: argument("--image-pull-policy", &defaults.image_pull_policy),
        native_sidecars: minor.is_none_or(|minor| minor >= NATIVE),
        ..defaults
    };
    Ok(settings.with_mesh_config(&mesh_config(client, namespace).await?))
}

fn arguments(deployment: &Deployment) -> Vec<String> {
    let pod = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let containers = pod.map(|pod| pod.containers.as_slice()).unwrap_or_default();
    containers
        .iter()
        .flat_map(|container| container.args.iter().flatten())
        .cloned()
        .collect()
}

async fn mesh_config(client: &Client, namespace: &str) -> anyhow::Result<MeshConfigSpec> {
    let kind = GroupVersionKind::gvk("config.openservicemesh.io", "v1alpha2", "MeshConfig");
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind));
    let object = api::look(&api, MeshConfig::NAME).await?;
    let spec = object
        .and_then(|object| object.data.get("spec").cloned())
        .unwrap_or(Value::Null);
    match spec {
        Value::Null => Ok(MeshConfigSpec::default()),
        spec => serde_json::from_value(spec)
            .with_context(|| format!("MeshConfig {namespace}/{} is not understood", MeshConfig::NAME)),
    }
}
