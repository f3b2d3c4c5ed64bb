//! The state-of-the-world protocol: every request names all that is wanted; a response of listeners or
//! clusters is the full set.

use std::collections::BTreeMap;

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
    apply::{Sink, nack},
    stream::Protocol,
    subscriptions::Subscriptions,
};

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

    fn open(&mut self, node: Node, subscriptions: &mut Subscriptions) -> Vec<Request> {
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
        let mut batch = sink.batch(kind);
        for any in response.resources {
            let unwrapped = (any.type_url == Wrapped::type_url())
                .then(|| unpack::<Wrapped>(&any).ok()?.resource)
                .flatten();
            let wanted = |name: &str| subscriptions.contains(kind, name);
            if let Some(name) = batch.take(None, &response.version_info, unwrapped.unwrap_or(any), wanted) {
                subscriptions.set_version(kind, &name, Some(response.version_info.clone()));
            }
        }
        if matches!(kind, ResourceType::Listener | ResourceType::Cluster) {
            for name in subscriptions
                .names(kind)
                .iter()
                .filter(|name| !batch.saw(name))
                .collect::<Vec<_>>()
            {
                subscriptions.set_version(kind, name, None);
                batch.remove(name);
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
}
