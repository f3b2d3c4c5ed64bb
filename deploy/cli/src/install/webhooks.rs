//! The way from the API server to the mesh's webhooks: kept where a user changed it, and waited for.

use std::time::Duration;

use anyhow::bail;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::{
    Api, Client, Error,
    api::PostParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    api::explain,
    manifests::{INJECTOR, VALIDATOR},
};

const POLL: Duration = Duration::from_millis(500);

/// Leaves a `url` in force that somebody wrote in the place of the Service, for an API server that does not reach
/// Services.
pub(super) fn keep_urls(there: &DynamicObject, object: &mut DynamicObject) {
    let Some(wanted) = object.data.get_mut("webhooks").and_then(Value::as_array_mut) else {
        return;
    };
    for webhook in wanted {
        let same = |it: &&Value| it.get("name") == webhook.get("name");
        let there = there.data.get("webhooks").and_then(Value::as_array);
        let there = there.and_then(|webhooks| webhooks.iter().find(same));
        let url = there.and_then(|it| it.pointer("/clientConfig/url")).cloned();
        if let (Some(url), Some(webhook)) = (url, webhook.as_object_mut()) {
            webhook.insert("clientConfig".to_owned(), json!({ "url": url }));
        }
    }
}

/// Waits until both webhooks carry the mesh's root and the validator answers.
///
/// # Errors
/// When that is not so at `deadline`; the text names the object and what to do.
pub(super) async fn wait(client: &Client, namespace: &str, deadline: Instant) -> anyhow::Result<()> {
    loop {
        let Some(problem) = problem(client, namespace).await? else {
            return Ok(());
        };
        if Instant::now() + POLL > deadline {
            bail!("{problem}");
        }
        sleep(POLL).await;
    }
}

async fn problem(client: &Client, namespace: &str) -> anyhow::Result<Option<String>> {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let mutating = mutating.get(INJECTOR).await.map_err(explain)?;
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let validating = validating.get(VALIDATOR).await.map_err(explain)?;
    let log = format!("see kubectl -n {namespace} logs deployment/weir-controller");
    if !mutating
        .webhooks
        .iter()
        .flatten()
        .all(|webhook| has_root(&webhook.client_config))
    {
        return Ok(Some(format!(
            "MutatingWebhookConfiguration {INJECTOR} has no caBundle: no controller has written it; {log}"
        )));
    }
    if !validating
        .webhooks
        .iter()
        .flatten()
        .all(|webhook| has_root(&webhook.client_config))
    {
        return Ok(Some(format!(
            "ValidatingWebhookConfiguration {VALIDATOR} has no caBundle: no controller has written it; {log}"
        )));
    }
    Ok(match answers(client, namespace).await? {
        Ok(()) => None,
        Err(why) => Some(format!(
            "ValidatingWebhookConfiguration {VALIDATOR}: the API server does not reach Service {namespace}/weir-controller{why}; let it reach the pods' ports 9090 and 9093, and {log}"
        )),
    })
}

fn has_root(config: &WebhookClientConfig) -> bool {
    config
        .ca_bundle
        .as_ref()
        .is_some_and(|bundle| !bundle.0.is_empty())
}

/// Asks the API server to accept, without keeping it, what only the validator refuses.
async fn answers(client: &Client, namespace: &str) -> anyhow::Result<Result<(), String>> {
    let kind = GroupVersionKind::gvk("specs.smi-spec.io", "v1alpha4", "HTTPRouteGroup");
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind));
    let wrong: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": { "name": "weir-install-probe" },
        "spec": { "matches": [{ "name": "probe", "pathRegex": "(" }] },
    }))?;
    let dry_run = PostParams {
        dry_run: true,
        field_manager: None,
    };
    match api.create(&dry_run, &wrong).await {
        Ok(_) => Ok(Err(String::new())),
        Err(Error::Api(status)) if status.message.contains("denied the request") => Ok(Ok(())),
        Err(Error::Api(status)) if status.message.contains("failed calling webhook") => {
            Ok(Err(format!(": {}", status.message)))
        }
        Err(error) => Err(explain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(config: &Value) -> DynamicObject {
        let webhook = json!({ "name": "weir-inject.k8s.io", "clientConfig": config });
        serde_json::from_value(json!({ "metadata": { "name": "w" }, "webhooks": [webhook] })).unwrap()
    }

    #[test]
    fn a_url_stays_and_its_ca_bundle_is_left_to_the_controller() {
        let service = json!({ "service": { "name": "weir-controller" } });
        let mut object = configuration(&service);
        keep_urls(
            &configuration(&json!({ "url": "https://h/x", "caBundle": "YQ==" })),
            &mut object,
        );
        assert_eq!(
            object.data["webhooks"][0]["clientConfig"],
            json!({ "url": "https://h/x" })
        );
        let mut object = configuration(&service);
        keep_urls(
            &configuration(&json!({ "service": {}, "caBundle": "YQ==" })),
            &mut object,
        );
        assert_eq!(object.data["webhooks"][0]["clientConfig"], service);
    }

    #[test]
    fn an_empty_ca_bundle_is_none() {
        let config = |value: Value| serde_json::from_value::<WebhookClientConfig>(value).unwrap();
        assert!(has_root(&config(json!({ "caBundle": "YQ==" }))));
        assert!(!has_root(&config(json!({ "caBundle": "" }))));
        assert!(!has_root(&config(json!({}))));
    }
}
