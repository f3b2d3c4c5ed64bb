//! Keeps `caBundle` of the mesh's webhooks at the roots that the mesh trusts, so that the API server knows the
//! controller. Nothing else of them is touched.

use std::{fmt::Debug, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt as _;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    sync::watch::Receiver,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{TrustBundle, object_watch};
use crate::leader::Leadership;

/// The MutatingWebhookConfiguration of the injector.
pub const INJECTOR: &str = "weir-injector";
/// The ValidatingWebhookConfiguration of the validator.
pub const VALIDATOR: &str = "weir-validator";
/// How this controller signs what it changes.
const FIELD_MANAGER: &str = "weir-controller";
const ANSWER: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(5);

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
    trust: Receiver<Arc<TrustBundle>>,
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
    mut trust: Receiver<Arc<TrustBundle>>,
    mut leads: Leadership,
) {
    let api = Api::<K>::all(client);
    let mut changes = object_watch::named(api.clone(), name).map(trimmed);
    let mut seen = None;
    let mut failed = false;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(object) => seen = Some(object),
                None => return,
            },
            changed = trust.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if failed => {}
        }
        failed = false;
        if !*leads.borrow_and_update() {
            continue;
        }
        let bundle = trust.borrow_and_update().pem().to_owned();
        if let Some(patch) = seen.as_ref().and_then(|object| patch(object, &bundle)) {
            match bring(&api, name, &patch).await {
                Ok(true) => info!(webhooks = name, "brought caBundle up to date"),
                // It comes back as a change.
                Ok(false) => seen = None,
                Err(error) => {
                    failed = true;
                    warn!(
                        webhooks = name,
                        error,
                        "cannot bring caBundle up to date, and until then the API server cannot call them"
                    );
                }
            }
        }
    }
}

/// `false`: there are no such webhooks any more.
async fn bring<K: Webhooks>(api: &Api<K>, name: &str, patch: &serde_json::Value) -> Result<bool, String> {
    let params = PatchParams::apply(FIELD_MANAGER);
    match timeout(ANSWER, api.patch(name, &params, &Patch::Strategic(patch))).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(false),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 10 s".to_owned()),
    }
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
