//! The names that a sidecar subscribes to, and the version of each that it has.

use std::{collections::BTreeMap, sync::Arc};

use weir_xds::{ResourceType, envoy::service::discovery::v3::DeltaDiscoveryRequest};

use super::layout::{APP_PORT, Layout};

const KINDS: usize = ResourceType::ALL.len();

/// Names of the services that can be used, made once for all sidecars.
pub(super) struct Names(Vec<(Arc<str>, Arc<str>)>);

impl Names {
    pub(super) fn new(layout: &Layout) -> Self {
        Self(
            (0..layout.services)
                .map(|service| layout.resources_of(service))
                .collect(),
        )
    }
}

/// What one sidecar holds.
pub(super) struct Holding {
    kinds: [Kind; KINDS],
    /// Something was held when the stream was opened.
    resumed: bool,
    /// The name that a resumed stream says nothing about, so that the answer tells when all was looked at.
    unanswered: bool,
}

#[derive(Default)]
struct Kind {
    asked: bool,
    items: Vec<Item>,
}

struct Item {
    name: Arc<str>,
    version: Option<Box<str>>,
    /// For endpoints: whose they are.
    service: Option<usize>,
}

/// What became of a resource.
pub(super) struct Taken {
    /// It was held in this version already.
    pub(super) known: bool,
    /// It is the endpoints of this service.
    pub(super) service: Option<usize>,
}

impl Holding {
    /// What the sidecar of a pod of this app subscribes to.
    pub(super) fn new(layout: &Layout, names: &Names, app: usize) -> Self {
        let mut kinds: [Kind; KINDS] = Default::default();
        let mut add = |kind: ResourceType, name: Arc<str>, service| {
            if let Some(of_kind) = kinds.get_mut(place(kind)) {
                of_kind.items.push(Item {
                    name,
                    version: None,
                    service,
                });
            }
        };
        add(ResourceType::Listener, "inbound".into(), None);
        add(ResourceType::Listener, "outbound".into(), None);
        add(ResourceType::Secret, "trust-bundle".into(), None);
        add(ResourceType::Route, format!("inbound|{APP_PORT}").into(), None);
        add(ResourceType::Cluster, format!("local|{APP_PORT}").into(), None);
        add(ResourceType::Cluster, "passthrough-outbound".into(), None);
        for service in layout.used_by(app) {
            let Some((listener, others)) = names.0.get(service) else {
                continue;
            };
            add(ResourceType::Listener, listener.clone(), None);
            for kind in [ResourceType::Route, ResourceType::Cluster] {
                add(kind, others.clone(), None);
            }
            add(ResourceType::Endpoints, others.clone(), Some(service));
        }
        Self {
            kinds,
            resumed: false,
            unanswered: false,
        }
    }

    /// A new stream: nothing is asked for on it yet.
    pub(super) fn reconnect(&mut self) {
        self.resumed = self.complete_but_for_answer();
        self.unanswered = self.resumed;
        self.kinds.iter_mut().for_each(|kind| kind.asked = false);
    }

    /// The next request of what can be asked for: a listener's routes and cluster are known once it is there, and a
    /// cluster's endpoints. A resumed stream tells all that is held at once.
    pub(super) fn ask(&mut self) -> Option<DeltaDiscoveryRequest> {
        let order = [
            (ResourceType::Listener, None),
            (ResourceType::Secret, None),
            (ResourceType::Route, Some(ResourceType::Listener)),
            (ResourceType::Cluster, Some(ResourceType::Listener)),
            (ResourceType::Endpoints, Some(ResourceType::Cluster)),
        ];
        let next = order.into_iter().find(|(kind, after)| {
            let ready = self.resumed || after.is_none_or(|after| self.has_all(after));
            ready && !self.kind(*kind).asked
        });
        let (kind, _) = next?;
        let resumed = self.resumed;
        let state = self.kinds.get_mut(place(kind))?;
        state.asked = true;
        let told = |item: &&Item| resumed && !(kind == ResourceType::Endpoints && is_first(state, item));
        let versions: BTreeMap<_, _> = state
            .items
            .iter()
            .filter(told)
            .filter_map(|item| Some((item.name.to_string(), item.version.as_deref()?.to_owned())))
            .collect();
        Some(DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            resource_names_subscribe: state.items.iter().map(|item| item.name.to_string()).collect(),
            initial_resource_versions: versions,
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// A resource came; `None`: it was not asked for.
    pub(super) fn take(&mut self, kind: ResourceType, name: &str, version: &str) -> Option<Taken> {
        let items = &mut self.kinds.get_mut(place(kind))?.items;
        let nth = items.iter().position(|item| &*item.name == name)?;
        let item = items.get_mut(nth)?;
        let answer = kind == ResourceType::Endpoints && nth == 0 && std::mem::take(&mut self.unanswered);
        let known = !answer && item.version.as_deref() == Some(version);
        if item.version.as_deref() != Some(version) {
            item.version = Some(version.into());
        }
        Some(Taken {
            known,
            service: item.service,
        })
    }

    /// Whether all that was asked for is there.
    pub(super) fn complete(&self) -> bool {
        !self.unanswered && self.complete_but_for_answer()
    }

    fn complete_but_for_answer(&self) -> bool {
        ResourceType::ALL.into_iter().all(|kind| self.has_all(kind))
    }

    fn has_all(&self, kind: ResourceType) -> bool {
        self.kind(kind).items.iter().all(|item| item.version.is_some())
    }

    fn kind(&self, kind: ResourceType) -> &Kind {
        &self.kinds[place(kind)]
    }
}

fn is_first(kind: &Kind, item: &Item) -> bool {
    kind.items.first().is_some_and(|first| first.name == item.name)
}

fn place(kind: ResourceType) -> usize {
    match kind {
        ResourceType::Cluster => 0,
        ResourceType::Endpoints => 1,
        ResourceType::Secret => 2,
        ResourceType::Listener => 3,
        ResourceType::Route => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding() -> Holding {
        let layout = Layout {
            name: "a",
            before: (0, 0),
            pods: 4,
            services: 2,
            endpoints: 2,
            uses: 2,
        };
        Holding::new(&layout, &Names::new(&layout), 0)
    }

    fn fill(holding: &mut Holding) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        while let Some(request) = holding.ask() {
            let kind = ResourceType::from_url(&request.type_url).unwrap();
            for name in &request.resource_names_subscribe {
                if !request.initial_resource_versions.contains_key(name) {
                    holding.take(kind, name, "1").unwrap();
                }
            }
            requests.push(request);
        }
        requests
    }

    #[test]
    fn what_a_resource_names_is_asked_for_after_it() {
        let mut holding = holding();
        holding.reconnect();
        let first: Vec<_> = std::iter::from_fn(|| holding.ask())
            .map(|request| request.type_url)
            .collect();
        assert_eq!(first, [ResourceType::Listener.url(), ResourceType::Secret.url()]);
        assert!(!holding.complete());
        for kind in [ResourceType::Listener, ResourceType::Secret] {
            let names: Vec<_> = holding
                .kind(kind)
                .items
                .iter()
                .map(|item| item.name.clone())
                .collect();
            names
                .iter()
                .for_each(|name| assert!(holding.take(kind, name, "1").is_some()));
        }
        assert_eq!(fill(&mut holding).len(), 3);
        assert!(holding.complete());
        assert!(holding.take(ResourceType::Listener, "elsewhere", "1").is_none());
    }

    #[test]
    fn a_resumed_stream_tells_what_is_held_but_for_one_name() {
        let mut holding = holding();
        holding.reconnect();
        fill(&mut holding);
        holding.reconnect();
        assert!(!holding.complete());
        let requests: Vec<_> = std::iter::from_fn(|| holding.ask()).collect();
        assert_eq!(requests.len(), KINDS);
        let untold: usize = requests
            .iter()
            .map(|request| request.resource_names_subscribe.len() - request.initial_resource_versions.len())
            .sum();
        assert_eq!(untold, 1);
        let asked = requests.last().unwrap().resource_names_subscribe[0].clone();
        assert!(!holding.take(ResourceType::Endpoints, &asked, "1").unwrap().known);
        assert!(holding.complete());
        assert!(holding.take(ResourceType::Endpoints, &asked, "1").unwrap().known);
    }
}
