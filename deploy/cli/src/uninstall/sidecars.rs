//! The pods that still have a sidecar.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, api::ListParams};
use weir_controller::spec::has_sidecar;

use crate::api::explain;

/// How many pods are asked for at once.
const PAGE: u32 = 500;
/// How many namespaces are named.
const NAMED: usize = 10;

/// How many pods of each namespace have a sidecar and run.
pub(super) async fn find(client: &Client) -> anyhow::Result<BTreeMap<String, usize>> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut counts = BTreeMap::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let pods = api.list(&page).await.map_err(explain)?;
        for pod in pods.iter().filter(|pod| has_sidecar(pod) && !ended(pod)) {
            *counts.entry(pod.namespace().unwrap_or_default()).or_default() += 1;
        }
        match pods.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(counts),
        }
    }
}

fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What their owners have to do. Empty where there are none.
pub(super) fn warning(counts: &BTreeMap<String, usize>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let all: usize = counts.values().sum();
    let mut text = format!(
        "warning: {all} pods have a sidecar and lose their traffic when its certificate expires; restart them after this:\n"
    );
    for (namespace, count) in counts.iter().take(NAMED) {
        text.push_str(&format!(
            "  {count} in {namespace}: kubectl -n {namespace} rollout restart deployment\n"
        ));
    }
    if counts.len() > NAMED {
        text.push_str(&format!("  and {} more namespaces\n", counts.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_names_namespaces_and_the_next_step() {
        assert_eq!(warning(&BTreeMap::new()), "");
        let counts = (0..12).map(|n| (format!("ns{n}"), 2)).collect();
        let text = warning(&counts);
        assert!(
            text.contains("24 pods") && text.contains("kubectl -n ns1 rollout restart"),
            "{text}"
        );
        assert!(text.contains("and 2 more namespaces"), "{text}");
    }
}
