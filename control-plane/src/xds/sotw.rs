//! The state-of-the-world protocol, as a state machine beside [`delta`](super::delta): each response of a type holds
//! everything subscribed to.

use std::{collections::BTreeSet, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};
use weir_xds::{
    ResourceType,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    },
};

use super::{
    changes::Touched,
    machine::{Handled, Interest, Limit, Machine},
    names::{Name, WILDCARD, index},
    view::View,
};

/// One stream's subscriptions.
pub(super) struct Session {
    pod: Arc<str>,
    types: [Type; ResourceType::ALL.len()],
    interest: Interest,
    nonce: u64,
}

#[derive(Default)]
struct Type {
    wildcard: bool,
    /// Once a client has named something, naming nothing means nothing.
    named: bool,
    names: BTreeSet<String>,
    nonce: String,
    version: String,
    pending: bool,
    /// Names were added: answered even when the version stays the same.
    owed: bool,
}

impl Machine for Session {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PROTOCOL: &'static str = "sotw";

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

    fn request(&mut self, request: &Self::Request, _: &dyn View) -> Result<Handled, Limit> {
        let Some(kind) = ResourceType::from_url(&request.type_url) else {
            return Ok(Handled::Unknown);
        };
        let state = &mut self.types[index(kind)];
        if !request.response_nonce.is_empty() && request.response_nonce != state.nonce {
            return Ok(Handled::Stale);
        }
        let names: BTreeSet<String> = request
            .resource_names
            .iter()
            .filter(|name| *name != WILDCARD)
            .cloned()
            .collect();
        let all = request.resource_names.iter().any(|name| name == WILDCARD);
        state.named |= !names.is_empty();
        let wildcard = matches!(kind, ResourceType::Listener | ResourceType::Cluster)
            && (all || names.is_empty() && !state.named);
        if state.nonce.is_empty() && !state.pending {
            state.version.clone_from(&request.version_info);
            state.pending = true;
        }
        if !names.is_subset(&state.names) || wildcard && !state.wildcard {
            state.pending = true;
            // A client that comes back with the current version holds it already.
            state.owed = !state.nonce.is_empty() || request.version_info.is_empty();
        }
        state.wildcard = wildcard;
        let before = std::mem::replace(&mut state.names, names);
        for name in before.difference(&state.names) {
            let topic = Name::parse(kind, name).map(|parsed| parsed.topic(&self.pod));
            self.interest.remove(topic, name.len());
        }
        for name in state.names.difference(&before) {
            let topic = Name::parse(kind, name).map(|parsed| parsed.topic(&self.pod));
            self.interest.add(topic, name.len())?;
        }
        self.interest.all = self.types.iter().any(|state| state.wildcard);
        Ok(Handled::of(kind, request.error_detail.as_ref()))
    }

    fn changed(&mut self, touched: &Touched, _: &dyn View) {
        for kind in ResourceType::ALL {
            let state = &mut self.types[index(kind)];
            let touches = |name: &String| {
                Name::parse(kind, name).is_some_and(|parsed| touched.contains(&parsed.topic(&self.pod)))
            };
            state.pending |= state.wildcard || state.names.iter().any(touches);
        }
    }

    fn next(&mut self, view: &dyn View) -> Option<Self::Response> {
        for kind in ResourceType::ALL {
            let state = &mut self.types[index(kind)];
            if !std::mem::take(&mut state.pending) {
                continue;
            }
            let owed = std::mem::take(&mut state.owed);
            let mut names: BTreeSet<String> = state.names.clone();
            if state.wildcard {
                names.extend(view.all(kind));
            }
            let mut hash = Context::new(&SHA256);
            let mut resources = Vec::with_capacity(names.len());
            for name in names {
                if let Some(encoded) = view.get(kind, &name) {
                    hash.update(name.as_bytes());
                    hash.update(&encoded.version.to_be_bytes());
                    resources.push(encoded.any.clone());
                }
            }
            let hash = hash.finish();
            let version: String = hash
                .as_ref()
                .iter()
                .take(8)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            if version == state.version && !owed {
                continue;
            }
            self.nonce += 1;
            state.nonce = self.nonce.to_string();
            state.version.clone_from(&version);
            return Some(DiscoveryResponse {
                version_info: version,
                resources,
                type_url: kind.url().to_owned(),
                nonce: state.nonce.clone(),
                control_plane: None,
            });
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
