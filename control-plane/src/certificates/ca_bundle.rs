//! Keeps `caBundle` of the mesh's webhooks at the roots that the mesh trusts, so that the API server knows the
//! controller. Nothing else of them is touched.

use std::{fmt::Debug, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::TrustBundle;
use crate::leader::Leadership;

/// The MutatingWebhookConfiguration of the injector.
pub const INJECTOR: &str = "weir-injector";
/// The ValidatingWebhookConfiguration of the validator.
pub const VALIDATOR: &str = "weir-validator";
/// How this controller signs what it changes.
const FIELD_MANAGER: &str = "weir-controller";

/// A webhook configuration of either kind.
trait Webhooks:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
    /// Name and address of each webhook.
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)>;
}

impl Webhooks for MutatingWebhookConfiguration {
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks.map(|it| (it.name.as_str(), &it.client_config)).collect()
    }
}

impl Webhooks for ValidatingWebhookConfiguration {
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks.map(|it| (it.name.as_str(), &it.client_config)).collect()
    }
}

/// Keeps the bundles current as long as this replica leads, until told to stop.
pub async fn keep(
    client: Client,
    trust: watch::Receiver<Arc<TrustBundle>>,
    leads: Leadership,
    stop: CancellationToken,
) {
    let injector =
        keep_one::<MutatingWebhookConfiguration>(client.clone(), INJECTOR, trust.clone(), leads.clone());
    let validator = keep_one::<ValidatingWebhookConfiguration>(client, VALIDATOR, trust, leads);
    tokio::select! {
        () = stop.cancelled() => {}
        _ = futures::future::join(injector, validator) => {}
    }
}

async fn keep_one<K: Webhooks>(
    client: Client,
    name: &'static str,
    mut trust: watch::Receiver<Arc<TrustBundle>>,
    mut leads: Leadership,
) {
    let api = Api::<K>::all(client);
    let mut changes = changes(&api, name);
    let mut seen = None;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(object)) => seen = Some(object),
                Some(Err(error)) => {
                    warn!(webhooks = name, %error, "cannot watch the webhooks; their caBundle stays as it is");
                    continue;
                }
                None => return,
            },
            changed = trust.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
        }
        if !*leads.borrow_and_update() {
            continue;
        }
        let bundle = trust.borrow_and_update().pem().to_owned();
        if let Some(object) = &seen
            && let Some(patch) = patch(object, &bundle)
        {
            match api
                .patch(name, &PatchParams::apply(FIELD_MANAGER), &Patch::Strategic(patch))
                .await
            {
                Ok(_) => info!(webhooks = name, "brought caBundle up to date"),
                Err(error) => {
                    warn!(webhooks = name, %error, "cannot bring caBundle up to date: the API server cannot call them");
                }
            }
        }
    }
}

fn changes<K: Webhooks>(api: &Api<K>, name: &str) -> BoxStream<'static, watcher::Result<K>> {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let changes = watcher(api.clone(), only).default_backoff().applied_objects();
    changes.map_ok(trimmed).boxed()
}

fn trimmed<K: Webhooks>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object
}

/// The change that makes every bundle this one; `None` where they are.
fn patch<K: Webhooks>(object: &K, bundle: &str) -> Option<serde_json::Value> {
    let stale = |client: &WebhookClientConfig| {
        client
            .ca_bundle
            .as_ref()
            .is_none_or(|ByteString(now)| now != bundle.as_bytes())
    };
    let stale: Vec<_> = object
        .clients()
        .into_iter()
        .filter(|(_, client)| stale(client))
        .collect();
    if stale.is_empty() {
        return None;
    }
    let bundle = STANDARD.encode(bundle);
    let webhooks = stale
        .iter()
        .map(|(name, _)| json!({ "name": name, "clientConfig": { "caBundle": bundle } }));
    Some(json!({ "webhooks": webhooks.collect::<Vec<_>>() }))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;

    use super::*;

    fn with_bundles(bundles: &[(&str, Option<&str>)]) -> MutatingWebhookConfiguration {
        let webhook = |(name, bundle): &(&str, Option<&str>)| MutatingWebhook {
            name: (*name).to_owned(),
            client_config: WebhookClientConfig {
                ca_bundle: bundle.map(|text| ByteString(text.as_bytes().to_vec())),
                ..WebhookClientConfig::default()
            },
            ..MutatingWebhook::default()
        };
        MutatingWebhookConfiguration {
            webhooks: Some(bundles.iter().map(webhook).collect()),
            ..MutatingWebhookConfiguration::default()
        }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let object = with_bundles(&[("a", Some("root")), ("b", Some("old")), ("c", None)]);
        let patch = patch(&object, "root").unwrap();
        let changed: Vec<_> = patch["webhooks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["name"])
            .collect();
        assert_eq!(changed, ["b", "c"]);
        assert_eq!(patch["webhooks"][0]["clientConfig"]["caBundle"], "cm9vdA==");
    }

    #[test]
    fn nothing_is_changed_where_all_is_current() {
        assert_eq!(patch(&with_bundles(&[("a", Some("root"))]), "root"), None);
    }
}
