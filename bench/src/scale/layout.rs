//! Who is in the mesh and who uses what: apps of a few pods each, which own services and call others.

use std::{net::Ipv4Addr, sync::Arc};

/// The port of every service.
pub(crate) const PORT: u16 = 80;
/// The port of every app.
pub(crate) const APP_PORT: u16 = 8080;
const NAMESPACES: usize = 10;

/// A part of the mesh. Parts with different names share nothing.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Starts every name.
    pub(crate) name: &'static str,
    /// Pods of parts before this one, and services.
    pub(crate) before: (usize, usize),
    pub(crate) pods: usize,
    pub(crate) services: usize,
    /// Pods of an app, and so endpoints of a service.
    pub(crate) endpoints: usize,
    /// Services that an app uses.
    pub(crate) uses: usize,
}

impl Layout {
    pub(crate) fn apps(&self) -> usize {
        self.pods.div_ceil(self.endpoints).max(1)
    }

    /// The app that a pod is of.
    pub(crate) fn app_of_pod(&self, pod: usize) -> usize {
        pod / self.endpoints
    }

    /// The app that a service leads to.
    pub(crate) fn app_of_service(&self, service: usize) -> usize {
        service % self.apps()
    }

    pub(crate) fn pods_of(&self, app: usize) -> std::ops::Range<usize> {
        let first = app * self.endpoints;
        first.min(self.pods)..(first + self.endpoints).min(self.pods)
    }

    pub(crate) fn services_of(&self, app: usize) -> impl Iterator<Item = usize> {
        (app..self.services).step_by(self.apps())
    }

    /// The services that an app uses, spread so that each has the same number of users.
    pub(crate) fn used_by(&self, app: usize) -> impl Iterator<Item = usize> + use<> {
        let (services, uses) = (self.services, self.uses.min(self.services));
        (0..uses).map(move |nth| (app + nth * services / uses) % services)
    }

    /// The apps that use a service, and the pods of these.
    pub(crate) fn users_of(&self, service: usize) -> (Vec<usize>, usize) {
        let uses = |app: &usize| self.used_by(*app).any(|used| used == service);
        let apps: Vec<usize> = (0..self.apps()).filter(uses).collect();
        let pods = apps.iter().map(|app| self.pods_of(*app).len()).sum();
        (apps, pods)
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = String> {
        (0..NAMESPACES.min(self.apps())).map(|app| self.namespace(app))
    }

    pub(crate) fn namespace(&self, app: usize) -> String {
        format!("{}-team-{}", self.name, app % NAMESPACES)
    }

    /// The name of an app and of its ServiceAccount.
    pub(crate) fn app_name(&self, app: usize) -> String {
        format!("{}-app-{app:05}", self.name)
    }

    pub(crate) fn pod_name(&self, pod: usize) -> String {
        format!("{}-{pod:06}", self.app_name(self.app_of_pod(pod)))
    }

    pub(crate) fn pod_uid(&self, pod: usize) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.before.0 + pod)
    }

    pub(crate) fn pod_ip(&self, pod: usize) -> Ipv4Addr {
        address(Ipv4Addr::new(10, 1, 0, 0), self.before.0 + pod)
    }

    pub(crate) fn service_name(&self, service: usize) -> String {
        format!("{}-svc-{service:05}", self.name)
    }

    pub(crate) fn cluster_ip(&self, service: usize) -> Ipv4Addr {
        // The range that the API server gives addresses from; 0.1 is its own.
        address(Ipv4Addr::new(10, 96, 1, 0), self.before.1 + service)
    }

    /// The names of its listener, and of its routes, cluster and endpoints.
    pub(crate) fn resources_of(&self, service: usize) -> (Arc<str>, Arc<str>) {
        let namespace = self.namespace(self.app_of_service(service));
        let name = self.service_name(service);
        (
            format!("{}:{PORT}", self.cluster_ip(service)).into(),
            format!("{namespace}/{name}|{PORT}").into(),
        )
    }
}

fn address(first: Ipv4Addr, nth: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + u32::try_from(nth).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_its_endpoints_and_as_many_users_as_any_other() {
        let layout = Layout {
            name: "a",
            before: (0, 0),
            pods: 5000,
            services: 1000,
            endpoints: 10,
            uses: 10,
        };
        for service in 0..layout.services {
            assert_eq!(layout.pods_of(layout.app_of_service(service)).len(), 10);
            let (apps, pods) = layout.users_of(service);
            assert_eq!((apps.len(), pods), (5, 50));
        }
        for app in 0..layout.apps() {
            assert_eq!(layout.services_of(app).count(), 2);
            let mut used: Vec<_> = layout.used_by(app).collect();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), 10);
        }
    }
}
