//! The values of an installation: `deploy/chart/values.yaml`, and what a user sets over it.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DEFAULT_VALUES, VERSION, overrides};

/// What an installation is made with. The meaning of each is in `deploy/chart/values.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Values {
    /// Where images come from.
    pub image: Image,
    /// The name of the mesh.
    pub mesh_name: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// The control plane.
    pub controller: Controller,
    /// The webhook that adds the sidecar.
    pub injector: Injector,
    /// The webhook that refuses policy.
    pub validator: Validator,
    /// The mesh's settings.
    pub mesh_config: MeshConfigValues,
}

/// Where images come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Registry and folder; empty: none.
    pub registry: String,
    /// Tag; empty: [`VERSION`].
    pub tag: String,
    /// When nodes pull.
    pub pull_policy: PullPolicy,
    /// `imagePullSecrets` of the controller.
    pub pull_secrets: Vec<Value>,
}

/// When nodes pull an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At every start of a container.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// The control plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Controller {
    /// How many run.
    pub replicas: u16,
    /// What is logged.
    pub log_level: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Requests and limits.
    pub resources: Map<String, Value>,
    /// Labels of nodes.
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes.
    pub tolerations: Vec<Value>,
    /// Affinities.
    pub affinity: Map<String, Value>,
    /// Priority class; empty: none.
    pub priority_class_name: String,
    /// Annotations of the pods.
    pub pod_annotations: BTreeMap<String, String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The webhook that adds the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Injector {
    /// Seconds that the API server waits for it.
    pub timeout_seconds: u8,
}

/// The webhook that refuses policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Validator {
    /// What becomes of policy while it does not answer.
    pub failure_policy: FailurePolicy,
    /// Seconds that the API server waits for it.
    pub timeout_seconds: u8,
}

/// What becomes of an object while its webhook does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailurePolicy {
    /// It is let in.
    Ignore,
    /// It is kept out.
    Fail,
}

/// The mesh's settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshConfigValues {
    /// Fields of MeshConfig's `spec` that differ from their defaults.
    pub spec: Map<String, Value>,
}

impl Values {
    /// The defaults with what `layers` say over them, each over those before it. A layer is the content of a values
    /// file; `null` in it takes away what was there.
    ///
    /// # Errors
    /// When a layer has a key that is none of the chart's, or a value is not what its key needs.
    pub fn new(layers: &[Value]) -> anyhow::Result<Self> {
        let defaults = serde_saphyr::from_str(DEFAULT_VALUES).context("cannot read values.yaml")?;
        let mut merged = Value::clone(&defaults);
        for layer in layers.iter().filter(|layer| !layer.is_null()) {
            overrides::check_keys(layer, &defaults)?;
            overrides::merge(&mut merged, layer);
        }
        let values: Self =
            serde_json::from_value(merged).context("the values are not what they should be")?;
        values.check()?;
        Ok(values)
    }

    /// The image `name` as a node pulls it.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        let Image { registry, tag, .. } = &self.image;
        let tag = if tag.is_empty() { VERSION } else { tag };
        match registry.trim_end_matches('/') {
            "" => format!("{name}:{tag}"),
            registry => format!("{registry}/{name}:{tag}"),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        let label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        if !well_formed(&self.mesh_name, 63, label) {
            bail!(
                "meshName {:?} cannot be a label; write up to 63 letters, digits, -, _ and .",
                self.mesh_name
            );
        }
        if !well_formed(&self.trust_domain, 253, domain) {
            bail!(
                "trustDomain {:?} is not a domain; write one such as cluster.local",
                self.trust_domain
            );
        }
        if self.controller.replicas == 0 {
            bail!("controller.replicas is 0, and a mesh needs a controller; write 1 or more");
        }
        for (key, seconds) in [
            ("injector", self.injector.timeout_seconds),
            ("validator", self.validator.timeout_seconds),
        ] {
            if !(1..=30).contains(&seconds) {
                bail!("{key}.timeoutSeconds is {seconds}; write 1 to 30");
            }
        }
        Ok(())
    }
}

fn well_formed(text: &str, longest: usize, allowed: impl Fn(u8) -> bool) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= longest
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| allowed(*byte))
}
