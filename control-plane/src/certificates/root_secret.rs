//! The mesh's root in a Secret of the control plane's namespace: made by the replica that is first, read by the others.
//!
//! Key `ca.key` holds the key; `ca.crt` the certificate that signs, and after it others that are trusted besides. Further
//! roots added to `ca.crt` are trusted at once, without a restart.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{BuiltIn, CertificateError, Issuer as _, TrustBundle, built_in, object_watch};

/// Name of the Secret.
pub const NAME: &str = "weir-ca-bundle";
const KEY: &str = "ca.key";
const CERTIFICATE: &str = "ca.crt";
const ANSWER: Duration = Duration::from_secs(10);

/// Reads the root, or makes it. When two replicas make one at once, the API server lets one of them win.
///
/// # Errors
/// When the API server does not answer or refuses, or the Secret holds no usable root.
pub async fn open(client: &Client, namespace: &str) -> Result<BuiltIn, CertificateError> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let failed = |problem: String| CertificateError::Secret {
        namespace: namespace.to_owned(),
        problem,
    };
    let secret = match timeout(ANSWER, read_or_create(&api)).await {
        Ok(Ok(secret)) => secret?,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed("no answer from the API server within 10 s".to_owned())),
    };
    let data = secret.data.unwrap_or_default();
    let (Some(key), Some(certificate)) = (data.get(KEY), data.get(CERTIFICATE)) else {
        return Err(failed(format!(
            "it holds no {KEY} and {CERTIFICATE}; restore both, or delete it to make a new root"
        )));
    };
    BuiltIn::from_pem(&key.0, &certificate.0)
        .map_err(|error| failed(format!("{error}, that is, delete the Secret")))
}

async fn read_or_create(api: &Api<Secret>) -> kube::Result<Result<Secret, CertificateError>> {
    if let Some(secret) = api.get_opt(NAME).await? {
        return Ok(Ok(secret));
    }
    let new = match built_in::generate() {
        Ok((key, certificate)) => secret(key, certificate),
        Err(error) => return Ok(Err(error)),
    };
    match api.create(&PostParams::default(), &new).await {
        Ok(created) => {
            info!(secret = NAME, "made a new root certificate");
            Ok(Ok(created))
        }
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(NAME).await.map(Ok),
        Err(error) => Err(error),
    }
}

fn secret(key: String, certificate: String) -> Secret {
    let data = [(KEY, key), (CERTIFICATE, certificate)];
    let data = data.map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes())));
    let labels = [
        ("app.kubernetes.io/name", "weir"),
        ("app.kubernetes.io/part-of", "weir"),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from(data)),
        ..Secret::default()
    }
}

/// Takes changes of the trusted roots from the Secret, until told to stop. What cannot be used changes nothing.
pub async fn follow(client: Client, namespace: String, root: Arc<BuiltIn>, stop: CancellationToken) {
    let api = Api::<Secret>::namespaced(client, &namespace);
    let mut changes = object_watch::named(api, NAME);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => match change {
                Some(secret) => apply(&root, &secret),
                None => return,
            },
        }
    }
}

fn apply(root: &BuiltIn, secret: &Secret) {
    let pem = secret.data.as_ref().and_then(|data| data.get(CERTIFICATE));
    let Some(pem) = pem.and_then(|pem| std::str::from_utf8(&pem.0).ok()) else {
        warn!(
            secret = NAME,
            "holds no {CERTIFICATE}; the last roots stay trusted"
        );
        return;
    };
    let changed = TrustBundle::from_pem(pem).and_then(|bundle| {
        let same = **root.trust().borrow() == bundle;
        if same { Ok(()) } else { root.set_trust(bundle) }
    });
    if let Err(error) = changed {
        warn!(secret = NAME, %error, "the last roots stay trusted");
    }
}
