//! The pods of the mesh's namespaces: who they are and whether they have a sidecar.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::core::v1;

use super::Workload;
use crate::{
    endpoints::Objects,
    spec::{self, Owner},
};

/// A pod, joined.
#[derive(Debug)]
pub(super) struct PodInfo<'a> {
    pub(super) namespace: &'a str,
    pub(super) service_account: &'a str,
    /// Empty where Kubernetes has not given one.
    pub(super) uid: &'a str,
    pub(super) principal: Arc<str>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) meshed: bool,
    pub(super) workload: Arc<Workload>,
}

/// Pods with the ways to find them.
#[derive(Debug, Default)]
pub(super) struct Pods<'a> {
    pub(super) all: Vec<PodInfo<'a>>,
    by_name: HashMap<(&'a str, &'a str), usize>,
    by_ip: HashMap<IpAddr, usize>,
}

impl<'a> Pods<'a> {
    /// Joins the pods of the monitored namespaces that have not ended.
    pub(super) fn join(objects: &'a Objects, monitored: &HashSet<&str>, trust_domain: &str) -> Self {
        let mut pods = Self::default();
        let mut principals: HashMap<(&str, &str), Arc<str>> = HashMap::new();
        for (name, pod) in objects.pods.iter() {
            let pod = &pod.value;
            if !monitored.contains(&*name.namespace) || ended(pod) {
                continue;
            }
            let spec = pod.spec.as_ref();
            let account = spec.and_then(|spec| spec.service_account_name.as_deref());
            let account = account.filter(|account| !account.is_empty()).unwrap_or("default");
            let principal = principals
                .entry((&name.namespace, account))
                .or_insert_with(|| principal(trust_domain, &name.namespace, account))
                .clone();
            let index = pods.all.len();
            let ips = ips(pod);
            let owner = Owner::of(&pod.metadata);
            let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
            if !host_network {
                for ip in &ips {
                    pods.by_ip.entry(*ip).or_insert(index);
                }
            }
            pods.by_name.insert((&name.namespace, &name.name), index);
            pods.all.push(PodInfo {
                namespace: &name.namespace,
                service_account: account,
                uid: pod.metadata.uid.as_deref().unwrap_or_default(),
                principal,
                ips,
                meshed: !host_network && spec::has_sidecar(pod),
                workload: Arc::new(Workload {
                    namespace: name.namespace.to_string(),
                    kind: owner.kind,
                    name: owner.name,
                    pod: name.name.to_string(),
                }),
            });
        }
        pods
    }

    /// The pod of a name, else the one that has the address. A pod that is known to have other addresses is a later one
    /// of the same name.
    pub(super) fn find(&self, namespace: &str, name: Option<&str>, ip: IpAddr) -> Option<usize> {
        match name {
            Some(name) => {
                let index = *self.by_name.get(&(namespace, name))?;
                let ips = &self.all.get(index)?.ips;
                (ips.is_empty() || ips.contains(&ip)).then_some(index)
            }
            None => {
                let index = self.by_ip.get(&ip).copied()?;
                (self.all[index].namespace == namespace).then_some(index)
            }
        }
    }
}

/// The SPIFFE URI of a ServiceAccount.
pub(super) fn principal(trust_domain: &str, namespace: &str, account: &str) -> Arc<str> {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}").into()
}

fn ended(pod: &v1::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn ips(pod: &v1::Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips = Vec::new();
    for ip in status
        .pod_ip
        .as_deref()
        .into_iter()
        .chain(several)
        .filter_map(|ip| ip.parse().ok())
    {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}
