//! Resources of the sidecar: MeshConfig's, changed by the pod's annotations.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};

use super::InjectError;

const WANTED: &str = "a quantity such as 100m or 64Mi, not below 0";

/// The resources of `base` with what the annotations say.
pub(super) fn with_annotations(
    base: Option<&ResourceRequirements>,
    annotations: &BTreeMap<String, String>,
) -> Result<Option<ResourceRequirements>, InjectError> {
    let mut all = base.cloned().unwrap_or_default();
    for resource in ["cpu", "memory"] {
        let request = format!("openservicemesh.io/sidecar-{resource}-request");
        let limit = format!("openservicemesh.io/sidecar-{resource}-limit");
        for (name, table) in [(&request, &mut all.requests), (&limit, &mut all.limits)] {
            if let Some(value) = quantity(annotations, name)? {
                table.get_or_insert_default().insert(resource.to_owned(), value);
            }
        }
        // A conflict that MeshConfig brings alone is not the pod's to mend; the API server names it.
        if let Some(culprit) = [&limit, &request]
            .into_iter()
            .find(|name| annotations.contains_key(*name))
        {
            check(&all, resource, culprit)?;
        }
    }
    Ok(Some(all).filter(|all| *all != ResourceRequirements::default()))
}

fn quantity(annotations: &BTreeMap<String, String>, name: &str) -> Result<Option<Quantity>, InjectError> {
    let Some(text) = annotations.get(name) else {
        return Ok(None);
    };
    match amount(text) {
        Some(_) => Ok(Some(Quantity(text.clone()))),
        None => Err(InjectError::Annotation {
            annotation: name.to_owned(),
            value: text.clone(),
            wanted: WANTED,
        }),
    }
}

fn check(all: &ResourceRequirements, resource: &str, culprit: &str) -> Result<(), InjectError> {
    let find = |table: &Option<BTreeMap<String, Quantity>>| table.as_ref()?.get(resource).cloned();
    let (Some(request), Some(limit)) = (find(&all.requests), find(&all.limits)) else {
        return Ok(());
    };
    if amount(&request.0) > amount(&limit.0) {
        return Err(InjectError::Resources {
            annotation: culprit.to_owned(),
            resource: resource.to_owned(),
            request: request.0,
            limit: limit.0,
        });
    }
    Ok(())
}

/// The number that a Kubernetes quantity means; `None` where it is none, or below 0.
fn amount(text: &str) -> Option<f64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    if !number.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        _ => 10_f64.powi(exponent(suffix)?),
    };
    Some(number.parse::<f64>().ok()? * factor)
}

fn exponent(suffix: &str) -> Option<i32> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    digits.parse().ok().filter(|power| (-30..=30).contains(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let name = |name: &str| format!("openservicemesh.io/sidecar-{name}");
        pairs
            .iter()
            .map(|(key, value)| (name(key), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, number) in [
            ("100m", 0.1),
            ("1.5", 1.5),
            ("64Mi", 67_108_864.0),
            ("1e3", 1000.0),
            ("2E", 2e18),
        ] {
            assert_eq!(amount(text), Some(number), "{text}");
        }
        for text in ["", "m", "-1", "1 Mi", "64MB", "1e", "1e99", ".", "lots"] {
            assert_eq!(amount(text), None, "{text}");
        }
    }

    #[test]
    fn a_pods_annotation_replaces_what_the_mesh_says() {
        let quantity = |text: &str| BTreeMap::from([("cpu".to_owned(), Quantity(text.to_owned()))]);
        let base = ResourceRequirements {
            requests: Some(quantity("100m")),
            ..Default::default()
        };
        let all = with_annotations(
            Some(&base),
            &annotated(&[("cpu-request", "1"), ("memory-limit", "64Mi")]),
        );
        let all = all.unwrap().unwrap();
        assert_eq!(all.requests, Some(quantity("1")));
        assert_eq!(all.limits.unwrap()["memory"].0, "64Mi");
        assert_eq!(with_annotations(None, &BTreeMap::new()), Ok(None));
    }

    #[test]
    fn a_request_above_the_limit_is_refused_by_name() {
        let refused = with_annotations(None, &annotated(&[("cpu-request", "2"), ("cpu-limit", "1500m")]));
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("sidecar-cpu-limit") && text.contains("1500m"),
            "{text}"
        );
    }
}
