//! Which namespaces belong to the mesh, and its settings.

use std::{collections::BTreeSet, sync::Arc};

use weir_xds::algorithms;

use super::{MeshSettings, Settings, TlsSettings};
use crate::{
    endpoints::Objects,
    spec::{self, Diagnostic, Finding, MeshConfig},
};

/// Namespaces that belong to the mesh.
pub(super) type Monitored = BTreeSet<Arc<str>>;

/// Which they are.
pub(super) fn monitored(objects: &Objects, settings: &Settings) -> Monitored {
    let monitored = objects.namespaces.iter().filter(|(_, namespace)| {
        let labels = namespace.value.metadata.labels.as_ref();
        labels.is_some_and(|labels| spec::is_monitored(labels, &settings.mesh_name))
    });
    monitored.map(|(name, _)| name.name.clone()).collect()
}

/// The settings of the MeshConfig [`MeshConfig::NAME`] of the control plane's namespace. One of another namespace has no
/// effect: whoever may write there need not be who rules the mesh.
pub(super) fn mesh_settings(
    objects: &Objects,
    settings: &Settings,
    diagnostics: &mut Vec<Diagnostic>,
) -> MeshSettings {
    let mut mesh = MeshSettings {
        trust_domain: settings.trust_domain.clone(),
        ..MeshSettings::default()
    };
    for (name, config) in objects.mesh_configs.iter() {
        if *name.namespace == *settings.namespace && &*name.name == MeshConfig::NAME {
            apply(&config.value, &mut mesh);
            continue;
        }
        let finding = Finding::warning(
            "metadata",
            format!(
                "only the MeshConfig {}/{} counts; this one is ignored",
                settings.namespace,
                MeshConfig::NAME
            ),
            format!(
                "give it namespace {} and name {}",
                settings.namespace,
                MeshConfig::NAME
            ),
        );
        diagnostics.push(config.source.diagnostic(format!("MeshConfig {name}"), finding));
    }
    mesh
}

fn apply(config: &MeshConfig, mesh: &mut MeshSettings) {
    let spec = &config.spec;
    if let Some(permissive) = spec.traffic.enable_permissive_traffic_policy_mode {
        mesh.permissive = permissive;
    }
    if let Some(egress) = spec.traffic.enable_egress {
        mesh.egress = egress;
    }
    if let Some(validity) = spec.certificate.service_cert_validity_duration {
        mesh.certificate_validity = validity.0;
    }
    let proxies = usize::try_from(spec.sidecar.max_data_plane_connections).ok();
    mesh.proxies = proxies.filter(|limit| *limit > 0);
    let oldest = spec.sidecar.tls_min_protocol_version.as_deref();
    let newest = spec.sidecar.tls_max_protocol_version.as_deref();
    let only_1_2 = newest == Some("TLSv1_2");
    mesh.tls = TlsSettings {
        allow_1_2: only_1_2 || matches!(oldest, Some("TLSv1_0" | "TLSv1_1" | "TLSv1_2")),
        allow_1_3: !only_1_2,
        cipher_suites: known(&spec.sidecar.cipher_suites, &algorithms::CIPHER_SUITES),
        curves: known(&spec.sidecar.ecdh_curves, &algorithms::CURVES),
    };
}

/// Those that sidecars know. The validator has told of the others.
fn known(wanted: &[String], known: &[&str]) -> Vec<String> {
    let wanted = wanted.iter();
    wanted
        .filter(|name| known.contains(&name.as_str()))
        .cloned()
        .collect()
}

/// The last value where it is equal, so that it stays the same `Arc`.
pub(super) fn keep<T: PartialEq>(last: Option<&Arc<T>>, now: T) -> Arc<T> {
    match last {
        Some(last) if **last == now => last.clone(),
        _ => Arc::new(now),
    }
}
