//! The mesh's own manifests: the files of `deploy/chart`, built into this program, with the values of an installation
//! set in them. `kubectl apply -k deploy/chart` and the Helm chart use the same files; a test holds the three equal.

mod overrides;
mod render;
mod values;

use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;

pub(crate) use overrides::{combine, parse_set};
pub use values::{Controller, FailurePolicy, Image, Injector, LogFormat, PullPolicy, Validator, Values};

/// The version of the mesh that these manifests install.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The name of the controller's Deployment, Service, ServiceAccount, roles and Lease.
pub const CONTROLLER: &str = "weir-controller";
/// The name of the MutatingWebhookConfiguration.
pub const INJECTOR: &str = "weir-injector";
/// The name of the ValidatingWebhookConfiguration.
pub const VALIDATOR: &str = "weir-validator";
/// The Secret with the mesh's root, which the controller makes.
pub const CA_SECRET: &str = "weir-ca-bundle";
/// The label that says which mesh a controller's Deployment is.
pub const MESH_NAME_LABEL: &str = "meshName";

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../../../chart/", $name)))),+]
    };
}

/// The kinds of the mesh's policy.
const CRDS: [(&str, &str); 10] = files![
    "crds/egress.yaml",
    "crds/httproutegroup.yaml",
    "crds/ingressbackend.yaml",
    "crds/meshconfig.yaml",
    "crds/meshrootcertificate.yaml",
    "crds/retry.yaml",
    "crds/tcproute.yaml",
    "crds/trafficsplit.yaml",
    "crds/traffictarget.yaml",
    "crds/upstreamtrafficsetting.yaml",
];

/// The objects of an installation, in the order in which they are made.
const OBJECTS: [(&str, &str); 12] = files![
    "manifests/namespace.yaml",
    "manifests/service-account.yaml",
    "manifests/cluster-role.yaml",
    "manifests/cluster-role-binding.yaml",
    "manifests/role.yaml",
    "manifests/role-binding.yaml",
    "manifests/service.yaml",
    "manifests/mesh-config.yaml",
    "manifests/deployment.yaml",
    "manifests/pod-disruption-budget.yaml",
    "manifests/mutating-webhook.yaml",
    "manifests/validating-webhook.yaml",
];

const DEFAULT_VALUES: &str = include_str!("../../../chart/values.yaml");

/// The CustomResourceDefinitions.
///
/// # Errors
/// When a built-in file cannot be read, which a test rules out.
pub fn crds() -> anyhow::Result<Vec<CustomResourceDefinition>> {
    CRDS.iter().map(|(name, text)| read(name, text)).collect()
}

/// The objects of an installation in `namespace`, in the order in which they are made: the Namespace first, the
/// webhooks last.
///
/// # Errors
/// When a built-in file cannot be read, which a test rules out.
pub fn objects(namespace: &str, values: &Values) -> anyhow::Result<Vec<DynamicObject>> {
    OBJECTS
        .iter()
        .map(|(name, text)| {
            let object = render::render(read(name, text)?, namespace, values);
            serde_json::from_value(object).with_context(|| format!("{name} is not an object"))
        })
        .collect()
}

fn read<T: DeserializeOwned>(name: &str, text: &str) -> anyhow::Result<T> {
    serde_saphyr::from_str(text).with_context(|| format!("cannot read {name}"))
}

#[cfg(test)]
mod tests;
