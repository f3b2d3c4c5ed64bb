//! The incremental protocol, as a state machine: requests and changes go in, responses come out of
//! [`Session::next`] one at a time, when there is room to send them. A slow reader therefore gets the newest state
//! once, not every state in between.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use weir_xds::{
    ResourceType,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    },
};

use super::{
    changes::Touched,
    machine::{Handled, Interest, Limit, Machine},
    names::{Name, Topic, WILDCARD, index},
    view::View,
};

/// A response is closed once it holds this many bytes of resources, so that it stays below the 4 MiB that gRPC
/// clients take.
const RESPONSE_BYTES: usize = 1 << 20;

/// One stream's subscriptions and what its client holds.
pub(super) struct Session {
    pod: Arc<str>,
    types: [Type; ResourceType::ALL.len()],
    interest: Interest,
    nonce: u64,
}

#[derive(Default)]
struct Type {
    seen: bool,
    wildcard: bool,
    /// A first wildcard request is answered even when there is nothing to send.
    unanswered: bool,
    names: HashMap<Arc<str>, Held>,
    /// Names to compare with the mesh.
    pending: BTreeSet<Arc<str>>,
    /// Names found gone, to be sent after everything that may refer to them.
    gone: BTreeSet<Arc<str>>,
}

struct Held {
    /// Subscribed to by name, not only by wildcard.
    explicit: bool,
    client: Client,
}

/// What the client was last told of a resource.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Nothing,
    Absent,
    Version(u64),
}

impl Machine for Session {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PROTOCOL: &'static str = "delta";

    fn new(pod: Arc<str>) -> Self {
        Self {
            pod,
            types: Default::default(),
            interest: Interest::default(),
            nonce: 0,
        }
    }

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn type_url(response: &Self::Response) -> &str {
        &response.type_url
    }

    fn request(&mut self, request: &Self::Request, view: &dyn View) -> Result<Handled, Limit> {
        let Some(kind) = ResourceType::from_url(&request.type_url) else {
            return Ok(Handled::Unknown);
        };
        let first = !std::mem::replace(&mut self.types[index(kind)].seen, true);
        let initial = first.then_some(&request.initial_resource_versions);
        for name in &request.resource_names_unsubscribe {
            self.unsubscribe(kind, name);
        }
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                self.subscribe_all(kind, initial, view)?;
            } else {
                self.subscribe(kind, name, initial)?;
            }
        }
        let unnamed = request.resource_names_subscribe.is_empty();
        if first && unnamed && matches!(kind, ResourceType::Listener | ResourceType::Cluster) {
            self.subscribe_all(kind, initial, view)?;
        }
        Ok(Handled::of(kind, request.error_detail.as_ref()))
    }

    fn changed(&mut self, touched: &Touched, view: &dyn View) {
        for kind in ResourceType::ALL {
            let state = &mut self.types[index(kind)];
            if state.wildcard {
                state.pending.extend(view.all(kind).into_iter().map(Arc::from));
                state.pending.extend(state.names.keys().cloned());
                continue;
            }
            for name in state.names.keys() {
                let topic = Name::parse(kind, name).map(|parsed| parsed.topic(&self.pod));
                if topic.is_some_and(|topic| touched.contains(&topic)) {
                    state.pending.insert(name.clone());
                }
            }
        }
    }

    fn next(&mut self, view: &dyn View) -> Option<Self::Response> {
        for kind in ResourceType::ALL {
            let state = &mut self.types[index(kind)];
            let resources = state.take_changed(kind, view);
            let leaves = matches!(kind, ResourceType::Listener | ResourceType::Route);
            let removed = match leaves && state.pending.is_empty() {
                true => state.take_gone(kind, view),
                false => Vec::new(),
            };
            if !resources.is_empty() || !removed.is_empty() {
                return Some(self.response(kind, resources, removed, view.generation()));
            }
        }
        for kind in ResourceType::ALL {
            let state = &mut self.types[index(kind)];
            let removed = state.take_gone(kind, view);
            if !removed.is_empty() || state.unanswered {
                return Some(self.response(kind, Vec::new(), removed, view.generation()));
            }
        }
        None
    }

    fn interest(&mut self) -> &mut Interest {
        &mut self.interest
    }

    fn subscribed(&self) -> [usize; ResourceType::ALL.len()] {
        self.types.each_ref().map(|state| state.names.len())
    }
}

impl Session {
    fn subscribe(
        &mut self,
        kind: ResourceType,
        name: &str,
        initial: Option<&BTreeMap<String, String>>,
    ) -> Result<(), Limit> {
        let client = initial
            .and_then(|versions| versions.get(name))
            .and_then(|version| u64::from_str_radix(version, 16).ok())
            .map_or(Client::Nothing, Client::Version);
        let name: Arc<str> = name.into();
        let held = Held {
            explicit: true,
            client,
        };
        let state = &mut self.types[index(kind)];
        state.pending.insert(name.clone());
        let before = state.names.insert(name.clone(), held);
        if before.is_none_or(|before| !before.explicit) {
            self.interest.add(topic(kind, &name, &self.pod), name.len())?;
        }
        Ok(())
    }

    fn subscribe_all(
        &mut self,
        kind: ResourceType,
        initial: Option<&BTreeMap<String, String>>,
        view: &dyn View,
    ) -> Result<(), Limit> {
        let state = &mut self.types[index(kind)];
        state.wildcard = true;
        state.unanswered = initial.is_none_or(BTreeMap::is_empty);
        self.interest.all = true;
        if initial.is_some_and(|versions| versions.len() > self.interest.room()) {
            return Err(Limit);
        }
        for (name, version) in initial.into_iter().flatten() {
            if state.names.contains_key(name.as_str()) {
                continue;
            }
            let client = u64::from_str_radix(version, 16).map_or(Client::Version(0), Client::Version);
            let name: Arc<str> = name.as_str().into();
            state.names.insert(
                name.clone(),
                Held {
                    explicit: false,
                    client,
                },
            );
        }
        state.pending.extend(view.all(kind).into_iter().map(Arc::from));
        state.pending.extend(state.names.keys().cloned());
        Ok(())
    }

    fn unsubscribe(&mut self, kind: ResourceType, name: &str) {
        let state = &mut self.types[index(kind)];
        if name == WILDCARD {
            state.wildcard = false;
            state.unanswered = false;
            state.names.retain(|_, held| held.explicit);
            let names = &state.names;
            state.pending.retain(|name| names.contains_key(name));
            state.gone.retain(|name| names.contains_key(name));
            self.interest.all = self.types.iter().any(|state| state.wildcard);
        } else if state.wildcard {
            // Only an answer tells the client whether the wildcard still covers the name.
            if let Some(held) = state.names.get_mut(name) {
                if std::mem::replace(&mut held.explicit, false) {
                    self.interest.remove(topic(kind, name, &self.pod), name.len());
                }
                if held.client != Client::Absent {
                    held.client = Client::Version(0);
                }
                state.pending.insert(name.into());
            }
        } else if let Some((name, _)) = state.names.remove_entry(name) {
            state.forget(&name);
            self.interest.remove(topic(kind, &name, &self.pod), name.len());
        }
    }

    fn response(
        &mut self,
        kind: ResourceType,
        resources: Vec<Resource>,
        removed_resources: Vec<String>,
        generation: u64,
    ) -> DeltaDiscoveryResponse {
        self.types[index(kind)].unanswered = false;
        self.nonce += 1;
        DeltaDiscoveryResponse {
            system_version_info: generation.to_string(),
            resources,
            removed_resources,
            type_url: kind.url().to_owned(),
            nonce: self.nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

impl Type {
    fn forget(&mut self, name: &str) {
        self.pending.remove(name);
        self.gone.remove(name);
    }

    /// The next resources that the client does not hold, up to the size of one response.
    fn take_changed(&mut self, kind: ResourceType, view: &dyn View) -> Vec<Resource> {
        let mut resources = Vec::new();
        let mut bytes = 0;
        while bytes < RESPONSE_BYTES {
            let Some(name) = self.pending.pop_first() else {
                break;
            };
            let Some(encoded) = view.get(kind, &name) else {
                self.gone.insert(name);
                continue;
            };
            self.gone.remove(&name);
            let held = self.names.entry(name.clone()).or_insert(Held {
                explicit: false,
                client: Client::Nothing,
            });
            if held.client == Client::Version(encoded.version) {
                continue;
            }
            held.client = Client::Version(encoded.version);
            bytes += encoded.any.value.len();
            resources.push(Resource {
                name: name.to_string(),
                version: format!("{:016x}", encoded.version),
                resource: Some(encoded.any.clone()),
                ..Resource::default()
            });
        }
        resources
    }

    /// The names that the client must be told are gone.
    fn take_gone(&mut self, kind: ResourceType, view: &dyn View) -> Vec<String> {
        let mut removed = Vec::new();
        for name in std::mem::take(&mut self.gone) {
            if view.get(kind, &name).is_some() {
                self.pending.insert(name);
                continue;
            }
            let Some(held) = self.names.get_mut(&name) else {
                continue;
            };
            if held.client != Client::Absent {
                removed.push(name.to_string());
            }
            held.client = Client::Absent;
            if !held.explicit {
                self.names.remove(&name);
            }
        }
        removed
    }
}

fn topic(kind: ResourceType, name: &str, pod: &Arc<str>) -> Option<Topic> {
    Name::parse(kind, name).map(|name| name.topic(pod))
}
