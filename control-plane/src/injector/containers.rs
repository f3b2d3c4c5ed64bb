//! The two containers that the injector adds.

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector,
        Probe, SeccompProfile, SecurityContext, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Exclusions, INIT_CONTAINER, PROXY_UID, Settings, TOKEN_DIRECTORY, TOKEN_VOLUME};
use crate::spec::{Owner, PROXY_CONTAINER};

/// Port of the sidecar's health helper.
pub(super) const HEALTH_PORT: i32 = 15904;

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

/// The sidecar: no root, no capabilities, nothing to write to.
pub(super) fn proxy(
    settings: &Settings,
    log_level: &str,
    owner: &Owner,
    bootstrap: String,
    native: bool,
) -> Container {
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
        args: Some(vec![
            "--service-node=$(POD_UID)".to_owned(),
            format!("--log-level={log_level}"),
            "--config-yaml".to_owned(),
            bootstrap,
        ]),
        env: Some(environment(owner)),
        ports: Some(vec![ContainerPort {
            name: Some("weir-metrics".to_owned()),
            container_port: 15010,
            ..Default::default()
        }]),
        resources: settings.resources.clone(),
        restart_policy: native.then(|| "Always".to_owned()),
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
fn started() -> Probe {
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
