//! The two containers that the injector adds.

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector,
        Probe, ResourceRequirements, SeccompProfile, SecurityContext, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Exclusions, INIT_CONTAINER, PROXY_UID, Settings, TOKEN_DIRECTORY, TOKEN_VOLUME};
use crate::spec::{Owner, PROXY_CONTAINER};

/// Port of the sidecar's health helper.
pub(super) const HEALTH_PORT: i32 = 15904;
/// Every port that the sidecar listens on.
pub(super) const PORTS: [i32; 8] = [15000, 15001, 15003, 15010, 15901, 15902, 15903, HEALTH_PORT];
/// The flag that the bootstrap follows.
pub(super) const BOOTSTRAP: &str = "--config-yaml";

/// The init container that redirects the pod's traffic, and needs NET_ADMIN for it.
pub(super) fn init(settings: &Settings, exclusions: &Exclusions) -> Container {
    let mut args = vec![format!("--proxy-uid={PROXY_UID}")];
    args.extend(exclusions.arguments());
    if settings.local_proxy_pod_ip {
        args.extend([
            "--local-proxy-mode=PodIP".to_owned(),
            "--pod-ip=$(POD_IPS)".to_owned(),
        ]);
    }
    let security = SecurityContext {
        allow_privilege_escalation: Some(settings.privileged_init),
        privileged: Some(settings.privileged_init),
        capabilities: Some(Capabilities {
            add: Some(vec!["NET_ADMIN".to_owned(), "NET_RAW".to_owned()]),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(false),
        run_as_user: Some(0),
        ..Default::default()
    };
    Container {
        name: INIT_CONTAINER.to_owned(),
        image: Some(settings.init_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(args),
        env: Some(vec![field("POD_IPS", "status.podIPs")]),
        security_context: Some(security),
        ..Default::default()
    }
}

/// What the sidecar of one pod has of its own.
pub(super) struct Sidecar {
    pub(super) log_level: String,
    pub(super) owner: Owner,
    pub(super) bootstrap: String,
    /// The bootstrap of what gets the certificate, where that is not the sidecar itself.
    pub(super) agent_bootstrap: String,
    pub(super) resources: Option<ResourceRequirements>,
    /// Port and path of the application's metrics, which it shows with its own.
    pub(super) merged: Option<String>,
    pub(super) native: bool,
}

impl Sidecar {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--service-node=$(POD_UID)".to_owned(),
            format!("--log-level={}", self.log_level),
        ];
        // The path is the user's: a `$` in it is no variable.
        let merged = self.merged.iter().map(|merged| merged.replace('$', "$$"));
        arguments.extend(merged.map(|merged| format!("--merge-metrics={merged}")));
        arguments.extend([BOOTSTRAP.to_owned(), self.bootstrap.clone()]);
        arguments
    }
}

/// The sidecar: no root, no capabilities, nothing to write to.
pub(super) fn proxy(settings: &Settings, sidecar: &Sidecar) -> Container {
    let security = SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            add: None,
            drop: Some(vec!["ALL".to_owned()]),
        }),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        run_as_user: Some(PROXY_UID),
        run_as_group: Some(PROXY_UID),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..Default::default()
    };
    Container {
        name: PROXY_CONTAINER.to_owned(),
        image: Some(settings.proxy_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(sidecar.arguments()),
        env: Some(environment(&sidecar.owner)),
        ports: Some(vec![ContainerPort {
            name: Some("weir-metrics".to_owned()),
            container_port: 15010,
            ..Default::default()
        }]),
        resources: sidecar.resources.clone(),
        restart_policy: sidecar.native.then(|| "Always".to_owned()),
        security_context: Some(security),
        startup_probe: Some(started()),
        volume_mounts: Some(vec![VolumeMount {
            name: TOKEN_VOLUME.to_owned(),
            mount_path: TOKEN_DIRECTORY.to_owned(),
            read_only: Some(true),
            ..Default::default()
        }]),
        ..Default::default()
    }
}

/// What comes after the sidecar waits for it, two minutes at the most before it is tried anew.
pub(super) fn started() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/ready".to_owned()),
            port: IntOrString::Int(HEALTH_PORT),
            ..Default::default()
        }),
        period_seconds: Some(1),
        timeout_seconds: Some(1),
        failure_threshold: Some(120),
        ..Default::default()
    }
}

fn environment(owner: &Owner) -> Vec<EnvVar> {
    let literal = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    };
    vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
        field("POD_IPS", "status.podIPs"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        literal("WORKLOAD_KIND", &owner.kind),
        literal("WORKLOAD_NAME", &owner.name),
    ]
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..Default::default()
        }),
    }
}
