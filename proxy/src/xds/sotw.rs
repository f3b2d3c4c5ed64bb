//! The state-of-the-world protocol: every request names all that is wanted; a response of listeners or
//! clusters is the full set.

use std::{collections::BTreeMap, time::Instant};

use prost_types::Any;
use weir_xds::{
    ResourceType, TypeUrl,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DiscoveryRequest as Request, DiscoveryResponse as Response, Resource as Wrapped,
        },
    },
    unpack,
};

use super::{
    apply::{Sent, Sink, nack},
    stream::Protocol,
    subscriptions::Subscriptions,
};

/// What the server has to know before it sends resources with a time to live.
const CLIENT_FEATURES: [&str; 2] = ["xds.config.supports-resource-ttl", "xds.config.resource-in-sotw"];

/// The state of the protocol; versions outlive a stream, nonces do not.
#[derive(Default)]
pub(super) struct StateOfTheWorld {
    node: Option<Node>,
    types: BTreeMap<ResourceType, Last>,
}

#[derive(Clone, Default)]
struct Last {
    version: String,
    nonce: String,
}

impl StateOfTheWorld {
    fn request(&mut self, kind: ResourceType, subscriptions: &Subscriptions) -> Request {
        let last = self.types.entry(kind).or_default();
        Request {
            version_info: last.version.clone(),
            node: self.node.take(),
            resource_names: subscriptions.names(kind),
            type_url: kind.url().to_owned(),
            response_nonce: last.nonce.clone(),
            error_detail: None,
        }
    }
}

impl Protocol for StateOfTheWorld {
    type Request = Request;
    type Response = Response;

    fn open(&mut self, mut node: Node, subscriptions: &mut Subscriptions) -> Vec<Request> {
        node.client_features.extend(CLIENT_FEATURES.map(str::to_owned));
        self.node = Some(node);
        subscriptions.take_changes();
        for last in self.types.values_mut() {
            last.nonce.clear();
        }
        let types = subscriptions.types();
        types
            .into_iter()
            .map(|kind| self.request(kind, subscriptions))
            .collect()
    }

    fn changed(&mut self, subscriptions: &mut Subscriptions) -> Vec<Request> {
        let changes = subscriptions.take_changes();
        changes
            .into_iter()
            .map(|change| self.request(change.kind, subscriptions))
            .collect()
    }

    fn answer(&mut self, response: Response, subscriptions: &mut Subscriptions, sink: &mut Sink) -> Request {
        let Some(kind) = ResourceType::from_url(&response.type_url) else {
            let error = format!("resource type {:?} was not asked for", response.type_url);
            return Request {
                node: self.node.take(),
                type_url: response.type_url,
                response_nonce: response.nonce,
                error_detail: Some(nack(&[error])),
                ..Request::default()
            };
        };
        let version = &response.version_info;
        let mut batch = sink.batch(kind, subscriptions.wildcard(kind));
        // A response that does nothing but prolong says nothing of the rest.
        let mut is_whole = response.resources.is_empty();
        for any in response.resources {
            let Wrapped {
                name, ttl, resource, ..
            } = unwrap(any);
            let Some(message) = resource else {
                batch.prolong(&name, ttl.as_ref(), subscriptions.in_force(kind, &name));
                continue;
            };
            is_whole = true;
            let sent = Sent {
                name: &name,
                version,
                ttl: ttl.as_ref(),
                message,
            };
            if let Some(name) = batch.take(sent, |name| subscriptions.contains(kind, name)) {
                subscriptions.arrived(kind, &name, version.clone());
            }
        }
        for name in batch.refused() {
            subscriptions.refused(kind, name);
        }
        if is_whole && matches!(kind, ResourceType::Listener | ResourceType::Cluster) && batch.is_legible() {
            let now = Instant::now();
            let expected = subscriptions.expected(kind).into_iter();
            for name in expected.filter(|name| !batch.saw(name)).collect::<Vec<_>>() {
                if subscriptions.gone(kind, &name, now) {
                    batch.remove(&name);
                }
            }
            subscriptions.complete(kind);
            for name in subscriptions.absent(kind, now) {
                batch.remove(&name);
            }
        }
        let error_detail = batch.finish(&response.version_info);
        let last = self.types.entry(kind).or_default();
        last.nonce = response.nonce;
        if error_detail.is_none() {
            last.version = response.version_info;
        }
        Request {
            error_detail,
            ..self.request(kind, subscriptions)
        }
    }

    fn refusal(request: &Request) -> (&str, Option<&str>) {
        let error = request.error_detail.as_ref();
        (&request.type_url, error.map(|error| error.message.as_str()))
    }
}

/// A resource with what is beside its message, where that was sent.
fn unwrap(any: Any) -> Wrapped {
    let wrapped = (any.type_url == Wrapped::type_url()).then(|| unpack(&any).ok());
    wrapped.flatten().unwrap_or_else(|| Wrapped {
        resource: Some(any),
        ..Wrapped::default()
    })
}
