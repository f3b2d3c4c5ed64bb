//! The API server's part: observed objects as YAML files, one per object, replaced atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, Pod, PodCondition,
    PodStatus, ServicePort,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint as SliceEndpoint, EndpointConditions, EndpointPort, EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;

use crate::manifests::Key;
use crate::pod::{self, Phase};
use crate::services::{Endpoint, Resolved, target};

/// The directory of observed objects and what has been written to it.
pub(crate) struct Cluster {
    dir: PathBuf,
    written: BTreeMap<String, String>,
}

impl Cluster {
    /// Opens `dir`; objects of an earlier run are removed.
    pub(crate) fn open(dir: PathBuf) -> Result<Self> {
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("empty {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self {
            dir,
            written: BTreeMap::new(),
        })
    }

    /// Makes the directory hold exactly these objects.
    pub(crate) fn publish(&mut self, pods: &[Pod], services: &BTreeMap<Key, Resolved>) -> Result<()> {
        let mut present = BTreeSet::new();
        for pod in pods {
            let name = format!(
                "pod_{}_{}.yaml",
                text(&pod.metadata.namespace),
                text(&pod.metadata.name)
            );
            self.write(&mut present, name, &[pod])?;
        }
        for ((namespace, name), resolved) in services {
            self.write(
                &mut present,
                format!("service_{namespace}_{name}.yaml"),
                &[&resolved.service],
            )?;
            let slices = slices(resolved);
            self.write(
                &mut present,
                format!("endpointslice_{namespace}_{name}.yaml"),
                &slices,
            )?;
        }
        let gone: Vec<String> = self
            .written
            .keys()
            .filter(|name| !present.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            let _gone_already = std::fs::remove_file(self.dir.join(&name));
            self.written.remove(&name);
        }
        Ok(())
    }

    fn write<T: Serialize>(
        &mut self,
        present: &mut BTreeSet<String>,
        name: String,
        objects: &[T],
    ) -> Result<()> {
        let mut content = String::new();
        for object in objects {
            content.push_str("---\n");
            content.push_str(&serde_saphyr::to_string(object).with_context(|| format!("render {name}"))?);
        }
        present.insert(name.clone());
        if self.written.get(&name) == Some(&content) {
            return Ok(());
        }
        let temporary = self.dir.join(format!(".{name}.new"));
        std::fs::write(&temporary, &content).with_context(|| format!("write {}", temporary.display()))?;
        std::fs::rename(&temporary, self.dir.join(&name)).with_context(|| format!("put {name} in place"))?;
        self.written.insert(name, content);
        Ok(())
    }
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// A Service's EndpointSlices. Pods may resolve a named port differently: each set of ports has its own slice.
fn slices(resolved: &Resolved) -> Vec<EndpointSlice> {
    let service = &resolved.service;
    let ports: &[ServicePort] = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    let mut slices = Vec::new();
    for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
        let mut groups: BTreeMap<Vec<Option<u16>>, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in &resolved.endpoints {
            let key = ports.iter().map(|port| target(port, &endpoint.pod)).collect();
            groups.entry(key).or_default().push(endpoint);
        }
        if groups.is_empty() && is_v4 {
            groups.insert(Vec::new(), Vec::new());
        }
        for (number, (targets, endpoints)) in groups.into_iter().enumerate() {
            let listed = endpoints
                .into_iter()
                .filter_map(|endpoint| slice_endpoint(endpoint, is_v4))
                .collect();
            let ports = ports
                .iter()
                .zip(targets)
                .filter_map(|(port, target)| {
                    Some(EndpointPort {
                        name: Some(port.name.clone().unwrap_or_default()),
                        port: Some(i32::from(target?)),
                        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                        app_protocol: port.app_protocol.clone(),
                    })
                })
                .collect();
            let name = format!(
                "{}-{}-{number}",
                text(&service.metadata.name),
                family.to_lowercase()
            );
            slices.push(EndpointSlice {
                metadata: slice_meta(resolved, name),
                address_type: family.into(),
                endpoints: listed,
                ports: Some(ports),
            });
        }
    }
    slices
}

fn slice_meta(resolved: &Resolved, name: String) -> ObjectMeta {
    let meta = &resolved.service.metadata;
    ObjectMeta {
        name: Some(name),
        namespace: meta.namespace.clone(),
        labels: Some(BTreeMap::from([(
            "kubernetes.io/service-name".into(),
            text(&meta.name).to_owned(),
        )])),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Service".into(),
            name: text(&meta.name).to_owned(),
            uid: text(&meta.uid).to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        }]),
        ..ObjectMeta::default()
    }
}

fn slice_endpoint(endpoint: &Endpoint, v4: bool) -> Option<SliceEndpoint> {
    let ip = endpoint.ips.iter().find(|ip| ip.is_ipv4() == v4)?;
    let meta = &endpoint.pod.metadata;
    Some(SliceEndpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(endpoint.ready),
            serving: Some(endpoint.serving),
            terminating: Some(endpoint.terminating),
        }),
        node_name: endpoint.pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        hostname: endpoint.pod.spec.as_ref().and_then(|spec| spec.hostname.clone()),
        target_ref: Some(k8s_openapi::api::core::v1::ObjectReference {
            kind: Some("Pod".into()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            ..Default::default()
        }),
        ..SliceEndpoint::default()
    })
}

/// `pod` with its observed status filled in.
pub(crate) fn observed(pod: &Pod, seen: &pod::PodStatus, gateway: IpAddr) -> Pod {
    let condition = |kind: &str, holds: bool| PodCondition {
        type_: kind.into(),
        status: if holds { "True" } else { "False" }.into(),
        ..PodCondition::default()
    };
    let all_ready = seen.ready();
    let (init, apps) = seen
        .containers
        .iter()
        .partition::<Vec<_>, _>(|(_, container)| container.init);
    let render = |list: Vec<(&String, &pod::ContainerStatus)>| {
        Some(
            list.into_iter()
                .map(|(name, container)| container_status(name, container))
                .collect(),
        )
    };
    let phase = match seen.phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    };
    let status = PodStatus {
        phase: Some(phase.into()),
        message: seen.message.clone(),
        host_ip: Some(gateway.to_string()),
        pod_ip: seen.ips.first().map(ToString::to_string),
        pod_ips: Some(
            seen.ips
                .iter()
                .map(|ip| k8s_openapi::api::core::v1::PodIP { ip: ip.to_string() })
                .collect(),
        ),
        conditions: Some(vec![
            condition("PodScheduled", true),
            condition("Initialized", seen.initialized),
            condition("ContainersReady", all_ready),
            condition("Ready", all_ready),
        ]),
        init_container_statuses: render(init),
        container_statuses: render(apps),
        ..PodStatus::default()
    };
    Pod {
        status: Some(status),
        ..pod.clone()
    }
}

fn container_status(name: &str, seen: &pod::ContainerStatus) -> ContainerStatus {
    let state = if seen.running {
        ContainerState {
            running: Some(ContainerStateRunning::default()),
            ..Default::default()
        }
    } else {
        let terminated = seen.exit_code.map(|exit_code| ContainerStateTerminated {
            exit_code,
            ..Default::default()
        });
        ContainerState {
            terminated,
            ..Default::default()
        }
    };
    ContainerStatus {
        name: name.to_owned(),
        ready: seen.ready,
        started: Some(seen.started),
        restart_count: i32::try_from(seen.restarts).unwrap_or(i32::MAX),
        state: Some(state),
        ..ContainerStatus::default()
    }
}
