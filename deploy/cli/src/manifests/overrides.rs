//! What a user says over the defaults: values files and `--set`.

use anyhow::{Context, bail};
use serde_json::{Map, Value};

/// Values whose keys are the user's, so that any is right.
const FREE: [&str; 5] = [
    "controller.affinity",
    "controller.nodeSelector",
    "controller.podAnnotations",
    "controller.resources",
    "meshConfig.spec",
];

/// Values of OSM's chart, and what they are called here.
const OSM: [(&str, &str); 20] = [
    ("osm.caBundleSecretName", ""),
    ("osm.certificateProvider.certKeyBitSize", ""),
    (
        "osm.certificateProvider.serviceCertValidityDuration",
        "meshConfig.spec.certificate.serviceCertValidityDuration",
    ),
    ("osm.controllerLogLevel", "controller.logLevel"),
    ("osm.enableEgress", "meshConfig.spec.traffic.enableEgress"),
    (
        "osm.enablePermissiveTrafficPolicy",
        "meshConfig.spec.traffic.enablePermissiveTrafficPolicyMode",
    ),
    ("osm.envoyLogLevel", "meshConfig.spec.sidecar.logLevel"),
    ("osm.image.pullPolicy", "image.pullPolicy"),
    ("osm.image.registry", "image.registry"),
    ("osm.image.tag", "image.tag"),
    ("osm.imagePullSecrets", "image.pullSecrets"),
    (
        "osm.inboundPortExclusionList",
        "meshConfig.spec.traffic.inboundPortExclusionList",
    ),
    ("osm.injector.webhookTimeoutSeconds", "injector.timeoutSeconds"),
    ("osm.localProxyMode", "meshConfig.spec.sidecar.localProxyMode"),
    (
        "osm.maxDataPlaneConnections",
        "meshConfig.spec.sidecar.maxDataPlaneConnections",
    ),
    ("osm.meshName", "meshName"),
    ("osm.osmController.replicaCount", "controller.replicas"),
    ("osm.osmController.resource", "controller.resources"),
    (
        "osm.outboundPortExclusionList",
        "meshConfig.spec.traffic.outboundPortExclusionList",
    ),
    ("osm.trustDomain", "trustDomain"),
];

/// Reads `--set KEY=VALUE` as a layer of values. KEY names nested values with dots, `\.` being a dot in a name. VALUE
/// is a text, a number, `true`, `false` or `null`; `{a,b}` is a list, as Helm has it, and what else begins with a
/// bracket is YAML.
///
/// # Errors
/// When there is no `=`, a name in KEY is empty, or VALUE begins like YAML and is not.
pub(crate) fn parse_set(text: &str) -> anyhow::Result<Value> {
    let Some((key, value)) = text.split_once('=') else {
        bail!("--set {text} says no value; write KEY=VALUE");
    };
    let mut names = vec![String::new()];
    let mut characters = key.chars();
    while let Some(character) = characters.next() {
        match (character, names.last_mut()) {
            ('.', _) => names.push(String::new()),
            ('\\', Some(name)) => name.extend(characters.next()),
            (_, Some(name)) => name.push(character),
            (_, None) => {}
        }
    }
    if names.iter().any(String::is_empty) {
        bail!(
            "--set {text} has an empty name before the =; write names with a dot between, such as controller.replicas=3"
        );
    }
    let value = parse_value(value).with_context(|| format!("cannot read the value of --set {text}"))?;
    Ok(names.into_iter().rev().fold(value, |value, name| {
        Value::Object(Map::from_iter([(name, value)]))
    }))
}

fn parse_value(text: &str) -> anyhow::Result<Value> {
    let helm_list = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    Ok(match (helm_list, text) {
        (Some(items), _) if !items.contains(':') => {
            let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(scalar).collect()
        }
        _ if text.starts_with(['[', '{']) => serde_saphyr::from_str(text)?,
        _ => scalar(text),
    })
}

/// A value as Helm reads it, to which `yes`, `on` and `1.0` are texts.
fn scalar(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        "0" => Value::from(0),
        _ if text.starts_with('0') => Value::from(text),
        _ => text
            .parse::<i64>()
            .map_or_else(|_| Value::from(text), Value::from),
    }
}

/// Lays `over` on `base`: maps are merged, `null` takes away, everything else replaces.
pub(super) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Lays `over` on `base` as [`merge`] does, and keeps each `null` for whoever lays the outcome on something else.
pub(crate) fn combine(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                combine(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Makes sure that every key of `layer` is one of the chart's.
///
/// # Errors
/// When one is not; the text says what is nearest to it.
pub(super) fn check_keys(layer: &Value, defaults: &Value) -> anyhow::Result<()> {
    match layer {
        Value::Object(_) | Value::Null => check_below("", layer, defaults),
        _ => bail!("the values are not a map; write KEY: VALUE lines as in the chart's values.yaml"),
    }
}

fn check_below(path: &str, layer: &Value, defaults: &Value) -> anyhow::Result<()> {
    let (Value::Object(layer), Value::Object(defaults)) = (layer, defaults) else {
        return Ok(());
    };
    if FREE.contains(&path) {
        return Ok(());
    }
    for (key, value) in layer {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match defaults.get(key) {
            Some(default) => check_below(&path, value, default)?,
            None if path == "osm" => bail!("{}", from_osm(value)),
            None => {
                let known: Vec<&str> = defaults.keys().map(String::as_str).collect();
                bail!(
                    "there is no value {path}; beside it there are {}",
                    known.join(", ")
                );
            }
        }
    }
    Ok(())
}

/// What to write instead of a value of OSM's chart.
fn from_osm(value: &Value) -> String {
    let mut leaves = Vec::new();
    leaf_paths("osm", value, &mut leaves);
    let advice: Vec<String> = leaves
        .iter()
        .map(|leaf| {
            let known = OSM
                .iter()
                .find(|(osm, _)| leaf == osm || leaf.starts_with(&format!("{osm}.")));
            match known {
                Some((_, "")) | None => format!("{leaf} has no counterpart, remove it"),
                Some((osm, ours)) => format!("{leaf} is called {}", leaf.replacen(osm, ours, 1)),
            }
        })
        .collect();
    format!("values under osm are those of OSM's chart: {}", advice.join("; "))
}

fn leaf_paths(path: &str, value: &Value, leaves: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                leaf_paths(&format!("{path}.{key}"), value, leaves);
            }
        }
        _ => leaves.push(path.to_owned()),
    }
}
