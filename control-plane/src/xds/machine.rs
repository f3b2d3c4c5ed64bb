//! What a protocol variant has to be able to do for a stream, and what a stream subscribed to.

use std::{collections::HashMap, sync::Arc};

use prost::Message;
use weir_xds::{ResourceType, envoy::config::core::v3::Node, google::rpc};

use super::{changes::Touched, names::Topic, view::View};

/// Names that a stream may subscribe to: an Envoy in a mesh of 10,000 services asks for the endpoints of each and for
/// its routes, and more as ports are several.
const NAMES: usize = 50_000;
/// Bytes of them together.
const NAME_BYTES: usize = 4 << 20;
const NACK_TEXT: usize = 512;

/// A protocol variant's state machine.
pub(super) trait Machine: Send + 'static {
    type Request: Message + Default + 'static;
    type Response: Message + 'static;
    const PROTOCOL: &'static str;

    /// For the sidecar of this pod.
    fn new(pod: Arc<str>) -> Self;
    /// The node of a request, which only a stream's first needs to carry.
    fn node(request: &Self::Request) -> Option<&Node>;
    /// The type URL of a response.
    fn type_url(response: &Self::Response) -> &str;
    /// Takes a request in.
    fn request(&mut self, request: &Self::Request, view: &dyn View) -> Result<Handled, Limit>;
    /// Takes a change in.
    fn changed(&mut self, touched: &Touched, view: &dyn View);
    /// The next thing to say.
    fn next(&mut self, view: &dyn View) -> Option<Self::Response>;
    /// What it follows.
    fn interest(&mut self) -> &mut Interest;
    /// How many names it holds, by type.
    fn subscribed(&self) -> [usize; ResourceType::ALL.len()];
}

/// What a request was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Handled {
    /// Taken in; with the client's complaint when it refuses the last response.
    Taken(ResourceType, Option<String>),
    /// About an older response: nothing to do.
    Stale,
    /// Of a type that is not served.
    Unknown,
}

impl Handled {
    pub(super) fn of(kind: ResourceType, error: Option<&rpc::Status>) -> Self {
        let text = |status: &rpc::Status| status.message.chars().take(NACK_TEXT).collect();
        Self::Taken(kind, error.map(text))
    }
}

/// A client subscribed to more than a proxy can need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {NAMES} resource names, or more than {NAME_BYTES} bytes of them, on one stream")]
pub(super) struct Limit;

/// The topics of the names that a session subscribed to, counted. What is held by wildcard only is not: `all`
/// stands for it.
#[derive(Default)]
pub(super) struct Interest {
    /// It subscribed to everything of some type.
    pub(super) all: bool,
    counts: HashMap<Topic, u32>,
    names: usize,
    bytes: usize,
    /// Topics whose following began (`true`) or ended since the last look.
    news: HashMap<Topic, bool>,
}

impl Interest {
    /// How many more names may be held.
    pub(super) fn room(&self) -> usize {
        NAMES.saturating_sub(self.names)
    }

    pub(super) fn add(&mut self, topic: Option<Topic>, name_bytes: usize) -> Result<(), Limit> {
        self.names += 1;
        self.bytes += name_bytes;
        if self.names > NAMES || self.bytes > NAME_BYTES {
            return Err(Limit);
        }
        if let Some(topic) = topic {
            let count = self.counts.entry(topic.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.news.insert(topic, true);
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, topic: Option<Topic>, name_bytes: usize) {
        self.names = self.names.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(name_bytes);
        let Some(topic) = topic else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&topic) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&topic);
                self.news.insert(topic, false);
            }
        }
    }

    /// The topics whose following began or ended since the last call.
    pub(super) fn take(&mut self) -> HashMap<Topic, bool> {
        std::mem::take(&mut self.news)
    }
}
