//! The protocol without a network: responses go in, requests and the state of the store come out.

use std::time::{Duration, Instant};

use prost_types::Any;
use tokio::sync::mpsc;
use weir_xds::{
    ResourceType,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
    },
};

use super::{
    Interest, Status, Store, Stored, Watched, apply::Sink, delta::Delta, sotw::StateOfTheWorld,
    stream::Protocol, subscriptions::Subscriptions,
};

/// How long names stay subscribed.
pub const GRACE: Duration = Duration::from_secs(60);

/// One proxy's end of a stream, incremental and of the state of the world by turns.
pub struct Rehearsal {
    /// Where resources go.
    pub store: Store,
    interest: mpsc::UnboundedReceiver<Interest>,
    subscriptions: Subscriptions,
    sink: Sink,
    delta: Delta,
    sotw: StateOfTheWorld,
    now: Instant,
}

impl Rehearsal {
    /// A new stream; of listeners and clusters everything is asked for, or names.
    pub fn new(is_wildcard: bool) -> Self {
        let (store, interest) = Store::new();
        let kinds = [ResourceType::Listener, ResourceType::Cluster];
        let kinds = kinds.into_iter().filter(|_| is_wildcard).collect();
        let mut rehearsal = Self {
            sink: Sink::new(store.clone(), Status::default()),
            store,
            interest,
            subscriptions: Subscriptions::new(GRACE, &kinds),
            delta: Delta::default(),
            sotw: StateOfTheWorld::default(),
            now: Instant::now(),
        };
        rehearsal
            .delta
            .open(Node::default(), &mut rehearsal.subscriptions);
        rehearsal.sotw.open(Node::default(), &mut rehearsal.subscriptions);
        rehearsal
    }

    /// Wants a name.
    pub fn want<T: Stored>(&mut self, name: &str) -> Watched<T> {
        let watched = self.store.watch(name);
        self.pass(Duration::ZERO);
        watched
    }

    /// Takes a response of the incremental protocol, and gives the reason when it is refused.
    pub fn delta(&mut self, response: DeltaDiscoveryResponse) -> Option<String> {
        let answer = self
            .delta
            .answer(response, &mut self.subscriptions, &mut self.sink);
        answer.error_detail.map(|error| error.message)
    }

    /// The same for the state of the world.
    pub fn state_of_the_world(&mut self, response: DiscoveryResponse) -> Option<String> {
        let answer = self
            .sotw
            .answer(response, &mut self.subscriptions, &mut self.sink);
        answer.error_detail.map(|error| error.message)
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        while let Ok(interest) = self.interest.try_recv() {
            self.sink.follow(&mut self.subscriptions, &interest, self.now);
        }
        self.sink.expire(&mut self.subscriptions, self.now);
    }

    /// A response of one type with these messages, each beside its name, and these removed names.
    pub fn response(
        kind: ResourceType,
        resources: Vec<(String, Any)>,
        removed: Vec<String>,
    ) -> DeltaDiscoveryResponse {
        use weir_xds::envoy::service::discovery::v3::Resource;
        let resources = resources.into_iter().map(|(name, message)| Resource {
            name,
            resource: Some(message),
            ..Resource::default()
        });
        DeltaDiscoveryResponse {
            type_url: kind.url().to_owned(),
            resources: resources.collect(),
            removed_resources: removed,
            ..DeltaDiscoveryResponse::default()
        }
    }
}

#[cfg(test)]
mod tests;
