//! Which services lead to which ports of which pods.

use std::collections::{BTreeMap, HashMap};

use super::{Protocol, ServiceKey};
use crate::spec::ObjectName;

/// A target port of a pod.
pub(super) type PodPort = (ObjectName, u16);

/// The services that lead to a target port, and what each declares to be spoken there. The first one's protocol counts.
pub(super) type Leading = BTreeMap<ServiceKey, Protocol>;

/// What leads to the pods.
#[derive(Debug, Default)]
pub(super) struct Inbound(HashMap<ObjectName, BTreeMap<u16, Leading>>);

impl Inbound {
    pub(super) fn add(&mut self, (pod, port): &PodPort, service: &ServiceKey, protocol: Protocol) {
        let ports = self.0.entry(pod.clone()).or_default();
        ports.entry(*port).or_default().insert(service.clone(), protocol);
    }

    pub(super) fn remove(&mut self, (pod, port): &PodPort, service: &ServiceKey) {
        let Some(ports) = self.0.get_mut(pod) else {
            return;
        };
        if let Some(leading) = ports.get_mut(port) {
            leading.remove(service);
            if leading.is_empty() {
                ports.remove(port);
            }
        }
        if ports.is_empty() {
            self.0.remove(pod);
        }
    }

    /// What leads to a port.
    pub(super) fn get(&self, (pod, port): &PodPort) -> Option<&Leading> {
        self.0.get(pod)?.get(port)
    }

    /// The ports of a pod, in order.
    pub(super) fn of(&self, pod: &ObjectName) -> impl Iterator<Item = (u16, &Leading)> {
        let ports = self.0.get(pod).into_iter().flatten();
        ports.map(|(port, leading)| (*port, leading))
    }
}
