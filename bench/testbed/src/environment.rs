//! A container's environment and arguments: literal values, the downward API, `$(VAR)` expansion. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret};

use crate::manifests::{Key, Manifests};

/// A reference that leads nowhere, or a field the downward API does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvironmentError {
    #[error("env {name}: field {path} is not one the downward API offers")]
    Field { name: String, path: String },
    #[error("{kind} {object} has no key {key}: create it, or mark the reference optional")]
    Missing {
        kind: &'static str,
        object: String,
        key: String,
    },
}

/// Value of a downward API field of a pod, e.g. `metadata.labels['app']`.
pub(crate) fn field(pod: &Pod, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let from_map = |map: &Option<BTreeMap<String, String>>, prefix: &str| {
        let key = path
            .strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")?;
        Some(
            map.as_ref()
                .and_then(|map| map.get(key))
                .cloned()
                .unwrap_or_default(),
        )
    };
    let lines = |map: &Option<BTreeMap<String, String>>| {
        map.iter()
            .flatten()
            .map(|(k, v)| format!("{k}={v:?}\n"))
            .collect::<String>()
    };
    match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(&meta.labels)),
        "metadata.annotations" => Some(lines(&meta.annotations)),
        "spec.serviceAccountName" => Some(
            spec.and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".into()),
        ),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "status.podIP" => status.and_then(|status| status.pod_ip.clone()),
        "status.hostIP" => status.and_then(|status| status.host_ip.clone()),
        "status.podIPs" => Some(
            status
                .and_then(|status| status.pod_ips.as_ref())
                .map(|ips| ips.iter().map(|ip| ip.ip.as_str()).collect::<Vec<_>>().join(","))
                .unwrap_or_default(),
        ),
        _ => from_map(&meta.labels, "metadata.labels")
            .or_else(|| from_map(&meta.annotations, "metadata.annotations")),
    }
}

/// Environment of `container` in order; later names replace earlier ones. Variables from a `resourceFieldRef` are left
/// out.
pub(crate) fn resolve(
    pod: &Pod,
    container: &Container,
    objects: &Manifests,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut env: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref
            && let Some(map) = objects.config_maps.get(&key(namespace, &reference.name))
        {
            env.extend(
                map.data
                    .iter()
                    .flatten()
                    .map(|(k, v)| (format!("{prefix}{k}"), v.clone())),
            );
        }
        if let Some(reference) = &source.secret_ref
            && let Some(secret) = objects.secrets.get(&key(namespace, &reference.name))
        {
            env.extend(
                secret_data(secret)
                    .into_iter()
                    .map(|(k, v)| (format!("{prefix}{k}"), String::from_utf8_lossy(&v).into_owned())),
            );
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(pod, namespace, variable, objects, &env)? {
            env.retain(|(name, _)| *name != variable.name);
            env.push((variable.name.clone(), value));
        }
    }
    Ok(env)
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

fn value(
    pod: &Pod,
    namespace: &str,
    variable: &EnvVar,
    objects: &Manifests,
    known: &[(String, String)],
) -> Result<Option<String>, EnvironmentError> {
    if let Some(text) = &variable.value {
        return Ok(Some(expand(text, known)));
    }
    let Some(source) = &variable.value_from else {
        return Ok(Some(String::new()));
    };
    if let Some(reference) = &source.field_ref {
        let path = &reference.field_path;
        return field(pod, path).map(Some).ok_or_else(|| EnvironmentError::Field {
            name: variable.name.clone(),
            path: path.clone(),
        });
    }
    let (kind, object, name, optional, found) = if let Some(selector) = &source.config_map_key_ref {
        let map = objects.config_maps.get(&key(namespace, &selector.name));
        let found = map.and_then(|map| map.data.as_ref()?.get(&selector.key).cloned());
        (
            "ConfigMap",
            &selector.name,
            &selector.key,
            selector.optional,
            found,
        )
    } else if let Some(selector) = &source.secret_key_ref {
        let secret = objects.secrets.get(&key(namespace, &selector.name));
        let found = secret
            .and_then(|secret| secret_data(secret).remove(&selector.key))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        ("Secret", &selector.name, &selector.key, selector.optional, found)
    } else {
        // resourceFieldRef: no limits are enforced here, so there is no figure to give.
        return Ok(None);
    };
    match found {
        None if optional != Some(true) => Err(EnvironmentError::Missing {
            kind,
            object: object.clone(),
            key: name.clone(),
        }),
        found => Ok(found),
    }
}

/// A Secret's content, `stringData` over `data`.
pub(crate) fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    let mut all: BTreeMap<String, Vec<u8>> = secret
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.0.clone()))
        .collect();
    all.extend(
        secret
            .string_data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone().into_bytes())),
    );
    all
}

/// A ConfigMap's content, text and binary.
pub(crate) fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let mut all: BTreeMap<String, Vec<u8>> = map
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone().into_bytes()))
        .collect();
    all.extend(
        map.binary_data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.0.clone())),
    );
    all
}

/// Replaces `$(NAME)` by its value; an unknown name stays as written, `$$` is one `$`.
pub(crate) fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            match env.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&rest[at..at + name.len() + 3]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_expand_as_kubernetes_does() {
        let env = vec![("A".to_owned(), "1".to_owned())];
        assert_eq!(expand("x$(A)y$(B)$$(A)$", &env), "x1y$(B)$(A)$");
    }

    #[test]
    fn the_downward_api_reads_labels_and_addresses() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "x"}},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        }))
        .unwrap();
        assert_eq!(field(&pod, "metadata.labels['app']").as_deref(), Some("x"));
        assert_eq!(field(&pod, "status.podIPs").as_deref(), Some("10.0.0.1,fd00::1"));
        assert_eq!(field(&pod, "spec.serviceAccountName").as_deref(), Some("default"));
        assert_eq!(field(&pod, "spec.colour"), None);
    }
}
