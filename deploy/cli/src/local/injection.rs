//! What a cluster's API server would ask the mesh: to inject a pod, and to sign its token.

use std::{path::Path, sync::Arc, time::SystemTime};

use weir_controller::{
    certificates::{TokenIdentity, join_token},
    endpoints::{Files, Provider},
    injector::{self, NamespaceMeta, Settings},
    spec::{MeshConfig, ObjectName, Owner},
};
use weir_testbed::{Mint, Mutate, TokenRequest};

/// What every pod gets, but for what MeshConfig says.
pub(super) fn settings(trust_bundle: String) -> Settings {
    Settings {
        trust_bundle,
        ..Settings::default()
    }
}

/// The mutating webhook, without the web. MeshConfig is looked up for each pod, as it is then. `envoy` tells the
/// workloads whose pods get Envoy, if the settings have it.
pub(super) fn webhook(base: Settings, envoy: fn(&Owner) -> bool, manifests: &Path) -> anyhow::Result<Mutate> {
    let files = Files::start(&[manifests.to_owned()])?;
    let objects = files.objects();
    Ok(Arc::new(move |namespace, pod| {
        let _watching = &files;
        let objects = objects.borrow().clone();
        let name = ObjectName::new(&base.mesh_namespace, MeshConfig::NAME);
        let mut settings = match objects.mesh_configs.get(&name) {
            Some(config) => base.with_mesh_config(&config.value.spec),
            None => base.clone(),
        };
        if !envoy(&Owner::of(&pod.metadata)) {
            settings.envoy = None;
        }
        Ok(injector::inject(pod, &NamespaceMeta::of(namespace), &settings)?)
    }))
}

/// Signs join tokens with the key that the controller verifies them by.
pub(super) fn token_signer(key: Vec<u8>) -> Mint {
    Arc::new(move |request: &TokenRequest| {
        let pod = TokenIdentity {
            namespace: request.namespace.clone(),
            service_account: request.service_account.clone(),
            pod: request.pod_name.clone(),
            pod_uid: request.pod_uid.clone(),
        };
        let mut claims = join_token::Claims::for_pod(&pod, SystemTime::now(), request.expiration);
        claims.aud = vec![request.audience.clone()];
        Ok(join_token::mint(&key, &claims)?)
    })
}
