//! What the node makes known: packet rules, hosts files, observed objects, the callers' snapshot.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use weir_init::rules::Family;

use super::{Entry, Node, label};
use crate::addresses::{Exhausted, GATEWAY};
use crate::cluster;
use crate::manifests::Key;
use crate::pod::{Context, PodStatus};
use crate::services::{self, Endpoint, Resolved};
use crate::testbed::Event;

impl Node {
    /// Puts what is known in force, and tells the callers.
    pub(super) fn publish(&mut self) {
        let services = self.resolve_services();
        self.publish_rules(&services);
        for entry in self.pods.values() {
            if let Err(error) = write_hosts(&entry.context, &services) {
                self.fail("write a hosts file", &error);
            }
        }
        self.publish_objects(&services);
        self.publish_readiness();
        let snapshot: Vec<PodStatus> = self.pods.values().map(Entry::status).collect();
        self.snapshot.send_if_modified(|old| {
            let changed = *old != snapshot;
            *old = snapshot;
            changed
        });
    }

    fn publish_rules(&mut self, services: &BTreeMap<Key, Resolved>) {
        for family in Family::ALL {
            if family == Family::V6 && !self.network.ipv6() {
                continue;
            }
            let table = services::proxy_table(family, services);
            if self.tables.get(&family) != Some(&table) {
                match self.netlink.replace(&table) {
                    Ok(()) => drop(self.tables.insert(family, table)),
                    Err(error) => self.fail("put Service rules in force", &error),
                }
            }
        }
    }

    fn publish_objects(&mut self, services: &BTreeMap<Key, Resolved>) {
        let gateway = IpAddr::from(GATEWAY.0);
        let pods: Vec<Pod> = self
            .pods
            .values()
            .filter(|entry| !entry.is_gone())
            .map(|entry| cluster::observed(&entry.context.pod, &entry.context.status.borrow(), gateway))
            .collect();
        if let Err(error) = self.cluster.publish(&pods, services) {
            self.fail("write observed objects", error.as_ref());
        }
    }

    fn publish_readiness(&mut self) {
        let mut news = Vec::new();
        for (key, entry) in &mut self.pods {
            let ready = entry.context.status.borrow().ready();
            if std::mem::replace(&mut entry.was_ready, ready) != ready {
                news.push(if ready {
                    Event::Ready(label(key))
                } else {
                    Event::NotReady(label(key))
                });
            }
        }
        for event in news {
            self.tell(event);
        }
    }

    fn resolve_services(&mut self) -> BTreeMap<Key, Resolved> {
        let mut all = BTreeMap::new();
        let manifests = Arc::clone(&self.manifests);
        for (key, service) in &manifests.services {
            let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
            if kind == Some("ExternalName") {
                continue;
            }
            let mut service = service.clone();
            match self.assign_ips(key, &mut service) {
                Ok(cluster_ips) => {
                    let endpoints = self.endpoints(&service);
                    let resolved = Resolved {
                        service,
                        cluster_ips,
                        endpoints,
                    };
                    all.insert(key.clone(), resolved);
                }
                Err(error) => self.fail("give a Service its address", &error),
            }
        }
        all
    }

    /// The Service's ClusterIPs, which are written into it as well; none for a headless one.
    fn assign_ips(&mut self, key: &Key, service: &mut Service) -> Result<Vec<IpAddr>, Exhausted> {
        if services::is_headless(service) {
            return Ok(Vec::new());
        }
        let spec = service.spec.get_or_insert_default();
        let asked = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
        let pair = self.service_addresses.assign(&key.0, &key.1, asked)?;
        let ips = services::cluster_ips(pair, self.network.ipv6());
        spec.cluster_ip = ips.first().map(ToString::to_string);
        spec.cluster_ips = Some(ips.iter().map(ToString::to_string).collect());
        Ok(ips)
    }

    fn endpoints(&self, service: &Service) -> Vec<Endpoint> {
        self.pods
            .values()
            .filter(|entry| services::selects(service, &entry.context.pod))
            .map(|entry| (entry, entry.status()))
            .filter(|(_, status)| !status.ended())
            .map(|(entry, status)| Endpoint {
                pod: entry.context.pod.clone(),
                ready: status.ready(),
                serving: status.serving(),
                terminating: status.terminating,
                ips: status.ips,
            })
            .collect()
    }
}

fn write_hosts(context: &Context, services: &BTreeMap<Key, Resolved>) -> io::Result<()> {
    let meta = &context.pod.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let own: Vec<(IpAddr, String)> = context.network.ips.iter().map(|ip| (*ip, name.clone())).collect();
    let text = services::hosts_file(meta.namespace.as_deref().unwrap_or_default(), &own, services);
    let path: &Path = &context.hosts;
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    overwrite(path, &text)
}

/// Overwrites a file that is bound into containers: same inode, never shorter than either content.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}
