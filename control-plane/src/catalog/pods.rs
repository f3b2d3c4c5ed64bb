//! The pods of the mesh's namespaces: who they are and whether they have a sidecar.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1;

use super::{Settings, Workload, index::Index, mesh::Monitored};
use crate::{
    endpoints::Objects,
    spec::{self, ObjectName, Owner},
};

/// A pod, joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodInfo {
    /// Its ServiceAccount.
    pub(super) account: ObjectName,
    /// Empty where Kubernetes has not given one.
    pub(super) uid: Arc<str>,
    pub(super) principal: Arc<str>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) meshed: bool,
    host_network: bool,
    pub(super) workload: Arc<Workload>,
}

impl PodInfo {
    /// What is known of a pod; `None`: it does not belong to the mesh's namespaces, or has ended.
    pub(super) fn of(
        name: &ObjectName,
        pod: &v1::Pod,
        monitored: &Monitored,
        settings: &Settings,
    ) -> Option<Self> {
        if !monitored.contains(&name.namespace) || ended(pod) {
            return None;
        }
        let spec = pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref());
        let account = account.filter(|account| !account.is_empty()).unwrap_or("default");
        let owner = Owner::of(&pod.metadata);
        let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
        Some(Self {
            account: ObjectName {
                namespace: name.namespace.clone(),
                name: account.into(),
            },
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            principal: principal(&settings.trust_domain, &name.namespace, account),
            ips: ips(pod),
            meshed: !host_network && spec::has_sidecar(pod),
            host_network,
            workload: Arc::new(Workload {
                namespace: name.namespace.to_string(),
                kind: owner.kind,
                name: owner.name,
                pod: name.name.to_string(),
            }),
        })
    }

    /// Whether it is served a configuration.
    pub(super) fn is_served(&self) -> bool {
        self.meshed && !self.uid.is_empty()
    }

    /// The addresses that are its own and not its node's.
    fn own_ips(&self) -> &[IpAddr] {
        if self.host_network { &[] } else { &self.ips }
    }
}

/// Pods with the ways to find them.
#[derive(Debug, Default)]
pub(super) struct Pods {
    by_name: HashMap<ObjectName, PodInfo>,
    by_ip: Index<IpAddr, ObjectName>,
    /// Those that are served.
    by_uid: Index<Arc<str>, ObjectName>,
}

impl Pods {
    /// All of them.
    pub(super) fn join(objects: &Objects, monitored: &Monitored, settings: &Settings) -> Self {
        let mut pods = Self::default();
        for (name, pod) in &objects.pods {
            pods.put(name, PodInfo::of(name, &pod.value, monitored, settings));
        }
        pods
    }

    /// Takes a pod's new state in. The one that it had.
    pub(super) fn put(&mut self, name: &ObjectName, now: Option<PodInfo>) -> Option<PodInfo> {
        let last = self.by_name.remove(name);
        if let Some(last) = &last {
            last.own_ips().iter().for_each(|ip| self.by_ip.remove(ip, name));
            self.by_uid.remove(&last.uid, name);
        }
        if let Some(now) = now {
            for ip in now.own_ips() {
                self.by_ip.add(*ip, name.clone());
            }
            if now.is_served() {
                self.by_uid.add(now.uid.clone(), name.clone());
            }
            self.by_name.insert(name.clone(), now);
        }
        last
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<&PodInfo> {
        self.by_name.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectName, &PodInfo)> {
        self.by_name.iter()
    }

    /// The pod that is served as this UID. Of several the last by name: UIDs are unique but where people write them.
    pub(super) fn served(&self, uid: &str) -> Option<(&ObjectName, &PodInfo)> {
        let name = self.by_uid.get(uid).next_back()?;
        Some((name, self.by_name.get(name)?))
    }

    /// The pod of a name, else the one that has the address. A pod that is known to have other addresses is a later one
    /// of the same name.
    pub(super) fn find(
        &self,
        namespace: &Arc<str>,
        reference: &Reference,
        ip: IpAddr,
    ) -> Option<(&ObjectName, &PodInfo)> {
        match reference {
            Reference::Name(name) => {
                let (name, info) = self.by_name.get_key_value(name)?;
                (info.ips.is_empty() || info.ips.contains(&ip)).then_some((name, info))
            }
            Reference::Address(ip) => {
                let name = self.by_ip.get(ip).next()?;
                (name.namespace == *namespace).then_some((name, self.by_name.get(name)?))
            }
        }
    }
}

/// How an endpoint tells its pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reference {
    /// By name.
    Name(ObjectName),
    /// By address alone.
    Address(IpAddr),
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
