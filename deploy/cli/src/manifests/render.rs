//! Sets the values of an installation in the manifests. The Helm templates of `deploy/chart` set the same.

use serde_json::{Map, Value, json};

use super::{CONTROLLER, MESH_NAME_LABEL, Values, overrides};

/// The namespace that the files name.
const NAMESPACE: &str = "weir-system";

/// The manifest `object` for an installation in `namespace`.
pub(super) fn render(mut object: Value, namespace: &str, values: &Values) -> Value {
    place(&mut object, namespace);
    match object.get("kind").and_then(Value::as_str) {
        Some("Deployment") => deployment(&mut object, namespace, values),
        Some("MeshConfig") => {
            if let Some(spec) = object.get_mut("spec") {
                overrides::merge(spec, &Value::Object(values.mesh_config.spec.clone()));
            }
        }
        Some("MutatingWebhookConfiguration") => injector(&mut object, namespace, values),
        Some("ValidatingWebhookConfiguration") => {
            for webhook in items(object.pointer_mut("/webhooks")) {
                set(webhook, "failurePolicy", json!(values.validator.failure_policy));
                set(webhook, "timeoutSeconds", json!(values.validator.timeout_seconds));
            }
        }
        _ => {}
    }
    object
}

/// Writes the namespace wherever an object names it.
fn place(object: &mut Value, namespace: &str) {
    let namespaced = object.pointer("/metadata/namespace").is_some();
    let is_namespace = object.get("kind").is_some_and(|kind| kind == "Namespace");
    if let Some(metadata) = object.get_mut("metadata") {
        if namespaced {
            set(metadata, "namespace", json!(namespace));
        }
        if is_namespace {
            set(metadata, "name", json!(namespace));
        }
    }
    for subject in items(object.get_mut("subjects")) {
        set(subject, "namespace", json!(namespace));
    }
    for webhook in items(object.get_mut("webhooks")) {
        if let Some(service) = webhook.pointer_mut("/clientConfig/service") {
            set(service, "namespace", json!(namespace));
        }
    }
}

fn deployment(object: &mut Value, namespace: &str, values: &Values) {
    let controller = &values.controller;
    if let Some(labels) = object.pointer_mut("/metadata/labels") {
        set(labels, MESH_NAME_LABEL, json!(values.mesh_name));
    }
    if let Some(spec) = object.get_mut("spec") {
        set(spec, "replicas", json!(controller.replicas));
    }
    if let Some(annotations) = object.pointer_mut("/spec/template/metadata/annotations") {
        overrides::merge(annotations, &json!(controller.pod_annotations));
    }
    if let Some(spec) = object.pointer_mut("/spec/template/spec") {
        set(spec, "nodeSelector", json!(controller.node_selector));
        set_if_any(spec, "tolerations", json!(controller.tolerations));
        set_if_any(spec, "affinity", json!(controller.affinity));
        set_if_any(spec, "priorityClassName", json!(controller.priority_class_name));
        set_if_any(spec, "imagePullSecrets", json!(values.image.pull_secrets));
    }
    for container in items(object.pointer_mut("/spec/template/spec/containers")) {
        set(container, "image", json!(values.image(CONTROLLER)));
        set(container, "imagePullPolicy", json!(values.image.pull_policy));
        set(container, "resources", json!(controller.resources));
        for argument in items(container.get_mut("args")) {
            set_flag(argument, &flags(namespace, values));
        }
    }
}

fn flags(namespace: &str, values: &Values) -> Map<String, Value> {
    let flags = json!({
        "--mesh-name": values.mesh_name,
        "--namespace": namespace,
        "--trust-domain": values.trust_domain,
        "--proxy-image": values.image("weir-proxy"),
        "--init-image": values.image("weir-init"),
        "--image-pull-policy": values.image.pull_policy,
        "--log-level": values.controller.log_level,
        "--log-format": values.controller.log_format,
    });
    match flags {
        Value::Object(flags) => flags,
        _ => Map::new(),
    }
}

/// Gives the `--flag=value` of `argument` the value of its flag.
fn set_flag(argument: &mut Value, flags: &Map<String, Value>) {
    let flag = argument.as_str().and_then(|text| text.split('=').next());
    if let Some((flag, value)) = flag.and_then(|flag| Some((flag, flags.get(flag)?.as_str()?))) {
        *argument = json!(format!("{flag}={value}"));
    }
}

fn injector(object: &mut Value, namespace: &str, values: &Values) {
    for webhook in items(object.get_mut("webhooks")) {
        set(webhook, "timeoutSeconds", json!(values.injector.timeout_seconds));
        if let Some(labels) = webhook.pointer_mut("/namespaceSelector/matchLabels") {
            set(labels, "openservicemesh.io/monitored-by", json!(values.mesh_name));
        }
        for expression in items(webhook.pointer_mut("/namespaceSelector/matchExpressions")) {
            for name in items(expression.get_mut("values")) {
                if name == NAMESPACE {
                    *name = json!(namespace);
                }
            }
        }
    }
}

fn items(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(map) = object {
        map.insert(key.to_owned(), value);
    }
}

fn set_if_any(object: &mut Value, key: &str, value: Value) {
    let empty = match &value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    if !empty {
        set(object, key, value);
    }
}
