//! The controller, its webhooks and its root. Pure.

use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        apps::v1::Deployment,
        core::v1::{Pod, Secret},
    },
};
use x509_parser::pem::Pem;

use super::report::Section;
use crate::{
    install::diagnose,
    manifests::{CONTROLLER, VERSION},
};

/// The Secret of the mesh's root.
pub(super) const ROOT_SECRET: &str = "weir-ca-bundle";
const ROOT_KEY: &str = "ca.crt";
/// The configurations of the webhooks.
pub(super) const INJECTOR: &str = "weir-injector";
pub(super) const VALIDATOR: &str = "weir-validator";
const DAY_S: i64 = 86_400;
/// A root that ends within so many days is reported.
const SOON_DAYS: i64 = 60;

/// Checks the Deployment and its pods.
pub(super) fn deployment(namespace: &str, deployment: &Deployment, pods: &[Pod], section: &mut Section) {
    let spec = deployment.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.as_ref();
    let available = status.and_then(|it| it.available_replicas).unwrap_or(0);
    section.note(format!("{available} of {wanted} controllers are ready"));
    let problems = diagnose::problems(namespace, deployment, pods);
    for problem in &problems {
        match available {
            0 => section.error(&problem.object, &problem.what, &problem.next),
            _ => section.warning(&problem.object, &problem.what, &problem.next),
        }
    }
    let object = format!("Deployment {namespace}/{CONTROLLER}");
    if available == 0 && problems.is_empty() {
        section.error(
            &object,
            "no controller is ready, so that no pod of the mesh can start",
            format!("kubectl -n {namespace} describe deployment {CONTROLLER}"),
        );
    }
    if wanted == 1 {
        section.warning(
            &object,
            "there is one controller only: while it restarts no pod of the mesh can start",
            "weir upgrade --set controller.replicas=2",
        );
    }
}

/// Compares the mesh's version with this program's.
pub(super) fn version(namespace: &str, version: &str, section: &mut Section) {
    section.note(format!("version {version}"));
    if version != VERSION {
        section.warning(
            format!("Deployment {namespace}/{CONTROLLER}"),
            format!("it is of version {version}, this program of {VERSION}"),
            "run `weir upgrade`, or use the program of the mesh's version",
        );
    }
}

/// The value of a flag that the controller is started with, such as `--trust-domain=`.
pub(super) fn argument(deployment: &Deployment, flag: &str) -> Option<String> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    let arguments = containers
        .iter()
        .flat_map(|container| container.args.iter().flatten());
    let mut values = arguments.filter_map(|argument| argument.strip_prefix(flag));
    values.next().map(str::to_owned)
}

/// Checks that the API server calls the injector, and would know it.
pub(super) fn injector(
    found: Option<&MutatingWebhookConfiguration>,
    root: Option<&str>,
    section: &mut Section,
) {
    let object = format!("MutatingWebhookConfiguration {INJECTOR}");
    let Some(found) = found else {
        let remedy = "run `weir install` again";
        return section.error(object, "it does not exist, so that no pod gets a sidecar", remedy);
    };
    let called: Vec<_> = found
        .webhooks
        .iter()
        .flatten()
        .map(|it| &it.client_config)
        .collect();
    let consequence = "so that no pod of the mesh can be made";
    webhook(&object, &called, root, consequence, section);
}

/// Checks that the API server calls the validator, and would know it.
pub(super) fn validator(
    found: Option<&ValidatingWebhookConfiguration>,
    root: Option<&str>,
    section: &mut Section,
) {
    let object = format!("ValidatingWebhookConfiguration {VALIDATOR}");
    let Some(found) = found else {
        let remedy = "run `weir install` again";
        return section.warning(
            object,
            "it does not exist, so that mistakes in policies are accepted",
            remedy,
        );
    };
    let called: Vec<_> = found
        .webhooks
        .iter()
        .flatten()
        .map(|it| &it.client_config)
        .collect();
    let consequence = "so that mistakes in policies are accepted";
    webhook(&object, &called, root, consequence, section);
}

fn webhook(
    object: &str,
    called: &[&WebhookClientConfig],
    root: Option<&str>,
    consequence: &str,
    section: &mut Section,
) {
    if called.is_empty() {
        section.error(
            object,
            format!("it calls nobody, {consequence}"),
            "run `weir install` again",
        );
    }
    for config in called {
        let bundle = config
            .ca_bundle
            .as_ref()
            .map(|ByteString(bytes)| bytes.as_slice());
        let bundle = bundle.map(String::from_utf8_lossy).unwrap_or_default();
        if bundle.trim().is_empty() {
            section.error(
                object,
                format!("its caBundle is empty, {consequence}"),
                "see the controllers' logs: the one that leads fills it within seconds",
            );
        } else if root.is_some_and(|root| !bundle.contains(root.trim())) {
            section.error(
                object,
                format!("its caBundle is not the mesh's root, {consequence}"),
                format!("see the controllers' logs, and whether Secret {ROOT_SECRET} was replaced; then restart them"),
            );
        }
    }
}

/// The root certificate in its Secret.
pub(super) fn root(secret: &Secret) -> Option<String> {
    let ByteString(bytes) = secret.data.as_ref()?.get(ROOT_KEY)?;
    String::from_utf8(bytes.clone()).ok()
}

/// Checks how long the mesh's roots are valid, at `now` seconds since the epoch.
pub(super) fn expiry(namespace: &str, root: &str, now: i64, section: &mut Section) {
    let object = format!("Secret {namespace}/{ROOT_SECRET}");
    let ends: Vec<i64> = Pem::iter_from_buffer(root.as_bytes())
        .filter_map(|pem| Some(pem.ok()?.parse_x509().ok()?.validity().not_after.timestamp()))
        .collect();
    let Some(first) = ends.iter().min() else {
        let remedy =
            "restore the Secret from a copy, or delete it, then restart the controllers and all pods";
        return section.error(object, format!("its {ROOT_KEY} is no certificate"), remedy);
    };
    let days = (first - now).div_euclid(DAY_S);
    let remedy =
        "delete the Secret, then restart the controllers and the pods of the mesh: they get a new root";
    match days {
        ..0 => section.error(
            object,
            "the mesh's root has expired, so that no sidecar trusts another",
            remedy,
        ),
        0..SOON_DAYS => section.warning(object, format!("the mesh's root expires in {days} days"), remedy),
        _ => section.note(format!("root valid for {days} days")),
    }
}
