//! Resources of a response → the store, one by one: a bad one is refused alone.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use prost_types::Any;
use weir_xds::{ResourceType, google::rpc};

use super::{
    Source, State, Status, Store,
    decode::{self, Context, Decoded, Origin},
};
use crate::model::{Cluster, Endpoints, Listener, RouteTable, Secret};

/// `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
/// Longest text sent with a NACK, in bytes.
const MAX_DETAIL: usize = 4096;

/// Where resources go to.
pub(super) struct Sink {
    store: Store,
    status: Status,
    /// Ignored settings that were logged already.
    warned: BTreeSet<&'static str>,
}

/// What became of the resources of one response.
pub(super) struct Batch<'a> {
    sink: &'a mut Sink,
    kind: ResourceType,
    context: Context,
    seen: HashSet<String>,
    errors: Vec<String>,
}

impl Sink {
    pub(super) fn new(store: Store, status: Status) -> Self {
        Self {
            store,
            status,
            warned: BTreeSet::new(),
        }
    }

    /// Starts on the resources of a response.
    pub(super) fn batch(&mut self, kind: ResourceType) -> Batch<'_> {
        Batch {
            sink: self,
            kind,
            context: Context::new(Origin::Stream),
            seen: HashSet::new(),
            errors: Vec::new(),
        }
    }
}

impl Batch<'_> {
    /// Takes a resource: `Ok` with its name when it is in force now. `wrapped` is the name beside the message,
    /// where the protocol has one. `wanted` says whether a name is subscribed to; others are passed over.
    pub(super) fn take(
        &mut self,
        wrapped: Option<&str>,
        version: &str,
        any: Any,
        wanted: impl FnOnce(&str) -> bool,
    ) -> Option<String> {
        let read = decode::resource(self.kind, &any, &mut self.context);
        let name = match (wrapped.filter(|name| !name.is_empty()), read.name) {
            (Some(wrapped), Some(name)) if wrapped != name => {
                self.refuse(
                    wrapped,
                    format!("{} {wrapped:?}: the message inside is named {name:?}", self.kind),
                );
                return None;
            }
            (Some(wrapped), _) => wrapped.to_owned(),
            (None, Some(name)) => name,
            (None, None) => String::new(),
        };
        if !self.seen.insert(name.clone()) {
            self.refuse(
                &name,
                format!("{} {name:?}: sent twice in one response", self.kind),
            );
            return None;
        }
        if !name.is_empty() && !wanted(&name) {
            return None;
        }
        let decoded = match read.outcome {
            Ok(decoded) => decoded,
            Err(error) => {
                self.refuse(&name, error.to_string());
                return None;
            }
        };
        let message = match &decoded {
            Decoded::Secret(secret) if matches!(**secret, Secret::Certificate(_)) => None,
            _ => Some(Arc::new(any)),
        };
        let source = Source {
            version: version.to_owned(),
            message,
        };
        self.put(&name, decoded, source);
        Some(name)
    }

    /// Refuses a resource; the last good one stays in force.
    pub(super) fn refuse(&mut self, name: &str, error: String) {
        self.sink.store.reject(self.kind, name, error.clone());
        self.errors.push(error);
    }

    /// Takes the server's word that there is no such resource.
    pub(super) fn remove(&mut self, name: &str) {
        let store = &self.sink.store;
        match self.kind {
            ResourceType::Cluster => store.apply::<Cluster>(name, State::Absent, Source::default()),
            ResourceType::Endpoints => store.apply::<Endpoints>(name, State::Absent, Source::default()),
            ResourceType::Secret => store.apply::<Secret>(name, State::Absent, Source::default()),
            ResourceType::Listener => store.apply::<Listener>(name, State::Absent, Source::default()),
            ResourceType::Route => store.apply::<RouteTable>(name, State::Absent, Source::default()),
        }
    }

    /// Whether a name was in the response, taken or not.
    pub(super) fn saw(&self, name: &str) -> bool {
        // A message that could not be read at all has the empty name, and could have been any.
        self.seen.contains(name) || self.seen.contains("")
    }

    /// Ends the batch: `None` is an ACK, else the reasons for a NACK.
    pub(super) fn finish(self, version: &str) -> Option<rpc::Status> {
        let ignored = &self.context.ignored;
        for setting in ignored
            .iter()
            .filter(|setting| !self.sink.warned.contains(*setting))
        {
            tracing::warn!(
                setting,
                "the control plane sends a setting that has no effect here"
            );
        }
        let unknown = &self.context.unknown;
        for message in unknown
            .iter()
            .filter(|message| !self.sink.warned.contains(*message))
        {
            tracing::warn!(
                message_type = message,
                "the control plane sends fields that this proxy does not know; they have no effect"
            );
        }
        self.sink.warned.extend(ignored);
        self.sink.warned.extend(unknown);
        if self.errors.is_empty() {
            self.sink
                .status
                .acked(self.kind, version, ignored.len() + unknown.len());
            return None;
        }
        let status = nack(&self.errors);
        tracing::warn!(kind = %self.kind, error = status.message, "configuration refused; the last good one stays in force");
        self.sink.status.nacked(self.kind, &status.message);
        Some(status)
    }

    fn put(&self, name: &str, decoded: Decoded, source: Source) {
        let store = &self.sink.store;
        match decoded {
            Decoded::Cluster(value) => store.apply(name, State::Ready(value), source),
            Decoded::Endpoints(value) => store.apply(name, State::Ready(value), source),
            Decoded::Secret(value) => store.apply(name, State::Ready(value), source),
            Decoded::Listener(value) => store.apply(name, State::Ready(value), source),
            Decoded::Route(value) => store.apply(name, State::Ready(value), source),
        }
    }
}

/// The error of a NACK.
pub(super) fn nack(errors: &[String]) -> rpc::Status {
    let mut message = errors.join("; ");
    if message.len() > MAX_DETAIL {
        let end = (0..=MAX_DETAIL).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or(0));
        message.push_str(" ...");
    }
    rpc::Status {
        code: INVALID_ARGUMENT,
        message,
    }
}
