//! The incremental protocol: what to say when a stream opens, when interest changes, and in answer to a
//! response. Pure but for the store that it publishes into.

use std::time::Instant;

use weir_xds::{
    ResourceType,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest as Request, DeltaDiscoveryResponse as Response},
    },
};

use super::{
    apply::{Sent, Sink, nack},
    stream::Protocol,
    subscriptions::Subscriptions,
};

/// The state of one incremental stream.
#[derive(Default)]
pub(super) struct Delta {
    /// Sent with the first message only.
    node: Option<Node>,
}

impl Protocol for Delta {
    type Request = Request;
    type Response = Response;

    fn open(&mut self, node: Node, subscriptions: &mut Subscriptions) -> Vec<Request> {
        self.node = Some(node);
        // The whole list is told anew.
        subscriptions.take_changes();
        let types = subscriptions.types();
        types
            .into_iter()
            .map(|kind| Request {
                node: self.node.take(),
                type_url: kind.url().to_owned(),
                resource_names_subscribe: subscriptions.names(kind),
                initial_resource_versions: subscriptions.versions(kind),
                ..Request::default()
            })
            .collect()
    }

    fn changed(&mut self, subscriptions: &mut Subscriptions) -> Vec<Request> {
        let changes = subscriptions.take_changes();
        changes
            .into_iter()
            .map(|change| Request {
                node: self.node.take(),
                type_url: change.kind.url().to_owned(),
                resource_names_subscribe: change.subscribe,
                resource_names_unsubscribe: change.unsubscribe,
                ..Request::default()
            })
            .collect()
    }

    fn answer(&mut self, response: Response, subscriptions: &mut Subscriptions, sink: &mut Sink) -> Request {
        let answer = Request {
            node: self.node.take(),
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..Request::default()
        };
        let Some(kind) = ResourceType::from_url(&response.type_url) else {
            let error = format!("resource type {:?} was not asked for", response.type_url);
            return Request {
                error_detail: Some(nack(&[error])),
                ..answer
            };
        };
        let now = Instant::now();
        let mut batch = sink.batch(kind, subscriptions.wildcard(kind));
        for resource in response.resources {
            let (name, ttl) = (&resource.name, resource.ttl.as_ref());
            let Some(message) = resource.resource else {
                batch.prolong(name, ttl, subscriptions.in_force(kind, name));
                continue;
            };
            let sent = Sent {
                name,
                version: &resource.version,
                ttl,
                message,
            };
            if let Some(name) = batch.take(sent, |name| subscriptions.contains(kind, name)) {
                subscriptions.arrived(kind, &name, resource.version);
            }
        }
        for name in response.removed_resources {
            if subscriptions.gone(kind, &name, now) {
                batch.remove(&name);
            }
        }
        for name in batch.refused() {
            subscriptions.refused(kind, name);
        }
        if batch.is_legible() {
            subscriptions.complete(kind);
        }
        for name in subscriptions.absent(kind, now) {
            batch.remove(&name);
        }
        Request {
            error_detail: batch.finish(&response.system_version_info),
            ..answer
        }
    }

    fn refusal(request: &Request) -> (&str, Option<&str>) {
        let error = request.error_detail.as_ref();
        (&request.type_url, error.map(|error| error.message.as_str()))
    }
}
