//! `weir proxy bootstrap`: what a sidecar starts from, without a pod that runs.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::bail;
use serde_json::Value;
use weir_controller::{
    injector::{Envoy, Protocol, Settings},
    spec::PROXY_CONTAINER,
};

use crate::{
    api,
    inject::{self, SettingsArgs},
};

/// The flag that a bootstrap follows in a container's arguments.
const FLAG: &str = "--config-yaml";

/// Flags of `weir proxy bootstrap`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// Files with the manifests of pods or workloads, YAML or JSON; - is standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// For a stock Envoy, which also needs `weir-proxy --mode identity` beside it, and --service-node with the pod's UID.
    #[arg(long)]
    envoy: bool,
    /// How Envoy talks to the controller.
    #[arg(
        long,
        value_enum,
        value_name = "PROTOCOL",
        default_value_t,
        requires = "envoy"
    )]
    xds: Xds,
    /// The namespace of workloads that name none.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// How Envoy talks to the controller.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Xds {
    /// Incremental.
    #[default]
    Delta,
    /// State of the world.
    Sotw,
}

impl Xds {
    /// As the injector calls it.
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Delta => Protocol::Delta,
            Self::Sotw => Protocol::StateOfTheWorld,
        }
    }
}

/// Writes the bootstrap of each workload to standard output, as YAML.
///
/// # Errors
/// When a manifest cannot be read or injected, or no workload of them gets a sidecar.
pub(super) async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let texts = inject::read_all(&args.files)?;
    let mut settings = args.settings.settings(cluster).await?;
    settings.envoy = args.envoy.then(|| Envoy {
        image: "envoy".to_owned(),
        protocol: args.xds.protocol(),
        socket_mark: None,
    });
    let output = bootstraps(&texts, &args.namespace, &settings)?;
    io::stdout().write_all(output.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The bootstraps of all workloads that get a sidecar.
pub(super) fn bootstraps(
    texts: &[(String, String)],
    namespace: &str,
    settings: &Settings,
) -> anyhow::Result<String> {
    let (injected, report) = inject::inject(texts, namespace, settings)?;
    let mut output = String::new();
    for document in serde_saphyr::from_multiple::<Value>(&injected)? {
        for bootstrap in found(&document) {
            // As Kubernetes does with arguments.
            let message: Value = serde_json::from_str(&bootstrap.replace("$$", "$"))?;
            output.push_str("---\n");
            output.push_str(&serde_saphyr::to_string(&message)?);
        }
    }
    if output.is_empty() {
        bail!("no workload gets a sidecar\n{report}");
    }
    Ok(output)
}

/// The bootstraps in the sidecars of an object, however deep its pod is.
fn found(value: &Value) -> Vec<&str> {
    let own = (value["name"] == PROXY_CONTAINER)
        .then(|| value["args"].as_array())
        .flatten();
    let own = own.and_then(|args| {
        let flag = args.iter().position(|argument| argument == FLAG)?;
        args.get(flag + 1)?.as_str()
    });
    let below: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(fields) => Box::new(fields.values()),
        _ => Box::new(std::iter::empty()),
    };
    own.into_iter().chain(below.flat_map(found)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: &str =
        "{kind: Deployment, metadata: {name: web, namespace: shop}, spec: {template: {spec: {
        serviceAccountName: web, containers: [{name: app, image: app, ports: [{containerPort: 8080}],
        livenessProbe: {httpGet: {path: /$ok, port: 8080}}}]}}}}";

    fn bootstrap(envoy: Option<Envoy>) -> Value {
        let texts = [("f.yaml".to_owned(), WORKLOAD.to_owned())];
        let settings = Settings {
            envoy,
            ..Settings::default()
        };
        let text = bootstraps(&texts, "default", &settings).unwrap();
        serde_saphyr::from_str(text.trim_start_matches("---\n")).unwrap()
    }

    #[test]
    fn a_bootstrap_is_that_of_the_pod() {
        let envoy = Envoy {
            image: "envoy".to_owned(),
            protocol: Protocol::StateOfTheWorld,
            socket_mark: None,
        };
        let message = bootstrap(Some(envoy));
        assert_eq!(message["node"]["cluster"], "web.shop");
        let dynamic = &message["dynamic_resources"];
        assert_eq!(dynamic["ads_config"]["api_type"], "GRPC");
        assert!(dynamic["lds_config"]["ads"].is_object() && dynamic["cds_config"]["ads"].is_object());
        assert!(message["static_resources"]["secrets"].is_null());
        let text = message.to_string();
        assert!(
            text.contains("/var/run/weir/workload-cert.json") && text.contains("\"/$ok\""),
            "{text}"
        );

        let message = bootstrap(None);
        let dynamic = &message["dynamic_resources"];
        assert_eq!(dynamic["ads_config"]["api_type"], "DELTA_GRPC");
        assert!(dynamic["lds_config"].is_null() && dynamic["cds_config"].is_null());
        assert!(message["static_resources"]["secrets"].is_array());
    }

    #[test]
    fn what_has_no_sidecar_has_no_bootstrap() {
        let texts = [(
            "f.yaml".to_owned(),
            "{kind: Service, metadata: {name: web}}".to_owned(),
        )];
        assert!(bootstraps(&texts, "default", &Settings::default()).is_err());
    }
}
