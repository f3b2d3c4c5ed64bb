//! Resources of a response → the store, one by one: a bad one is refused alone.

use std::{
    collections::{BTreeSet, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use prost_types::Any;
use weir_xds::{ResourceType, google::rpc};

use super::{
    Interest, Source, State, Status, Store,
    decode::{self, Context, Decoded, Origin},
    lapse::{self, Lapses},
    subscriptions::{MOST_NAMES, Subscriptions},
};
use crate::model::{Listener, Secret};

/// `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
/// Longest text sent with a NACK, in bytes.
const MAX_DETAIL: usize = 4096;

/// Where resources go to.
pub(super) struct Sink {
    store: Store,
    status: Status,
    /// The ends of the resources that have a time to live.
    pub(super) lapses: Lapses,
    /// Ignored settings that were logged already.
    warned: BTreeSet<&'static str>,
}

/// A resource of a response.
pub(super) struct Sent<'a> {
    /// The name beside the message; empty where the protocol has none.
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    /// How long it lives; `None`: until the server says otherwise.
    pub(super) ttl: Option<&'a prost_types::Duration>,
    pub(super) message: Any,
}

/// What became of the resources of one response.
pub(super) struct Batch<'a> {
    sink: &'a mut Sink,
    kind: ResourceType,
    /// Whether everything of the type is asked for, so that names come that nobody watches.
    wildcard: bool,
    context: Context,
    seen: HashSet<String>,
    /// Names of which it is not clear who was meant.
    garbled: HashSet<String>,
    refused: Vec<String>,
    errors: Vec<String>,
}

impl Sink {
    pub(super) fn new(store: Store, status: Status) -> Self {
        Self {
            store,
            status,
            lapses: Lapses::default(),
            warned: BTreeSet::new(),
        }
    }

    /// Follows a change of interest. What is known not to be there is so at once.
    pub(super) fn follow(&self, subscriptions: &mut Subscriptions, interest: &Interest, now: Instant) {
        if subscriptions.follow(interest, now)
            && let Interest::Wanted(kind, name) = interest
        {
            self.store.absent(*kind, name);
        }
    }

    /// Gives up what is idle, what did not come, and what the server did not prolong.
    pub(super) fn expire(&mut self, subscriptions: &mut Subscriptions, now: Instant) {
        let (store, lapses) = (&self.store, &mut self.lapses);
        subscriptions.expire(now, |kind, name| {
            let forgotten = store.forget(kind, name);
            if forgotten {
                lapses.set(kind, name, None);
            }
            forgotten
        });
        while let Some((kind, name)) = subscriptions.overdue(now) {
            tracing::warn!(%kind, name = &*name, "named by a route, but the control plane has none");
            store.absent(kind, &name);
        }
        while let Some((kind, name)) = lapses.over(now) {
            tracing::warn!(%kind, name = &*name, "its time to live is over: gone until the control plane sends it again");
            if subscriptions.gone(kind, &name, now) {
                store.absent(kind, &name);
            }
        }
    }

    /// Starts on the resources of a response.
    pub(super) fn batch(&mut self, kind: ResourceType, wildcard: bool) -> Batch<'_> {
        Batch {
            sink: self,
            kind,
            wildcard,
            context: Context::new(Origin::Stream),
            seen: HashSet::new(),
            garbled: HashSet::new(),
            refused: Vec::new(),
            errors: Vec::new(),
        }
    }
}

impl Batch<'_> {
    /// Takes a resource, and gives its name when it is in force now. `wanted` says whether a name is subscribed to;
    /// others are passed over.
    pub(super) fn take(&mut self, sent: Sent<'_>, wanted: impl FnOnce(&str) -> bool) -> Option<String> {
        let any = sent.message;
        let read = decode::resource(self.kind, &any, &mut self.context);
        let name = match (Some(sent.name).filter(|name| !name.is_empty()), read.name) {
            (Some(wrapped), Some(name)) if wrapped != name => {
                let error = format!("{} {wrapped:?}: the message inside is named {name:?}", self.kind);
                self.sink.store.reject(self.kind, wrapped, error.clone());
                self.garbled.extend([wrapped.to_owned(), name]);
                self.errors.push(error);
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
            if self.wildcard {
                let error = format!("{} {name:?}: there are more than {MOST_NAMES} already", self.kind);
                self.errors.push(error);
            }
            return None;
        }
        let decoded = match read.outcome {
            Ok(decoded) => decoded,
            Err(error) => {
                self.refuse(&name, error.to_string());
                return None;
            }
        };
        let end = self.end(&name, sent.ttl)?;
        if self.wildcard
            && let Decoded::Listener(listener) = &decoded
            && let Err(error) = reachable(&name, listener)
        {
            self.refuse(&name, error);
            return None;
        }
        let message = match &decoded {
            Decoded::Secret(secret) if matches!(**secret, Secret::Certificate(_)) => None,
            _ => Some(Arc::new(any)),
        };
        let source = Source {
            version: sent.version.to_owned(),
            message,
        };
        self.put(&name, decoded, source);
        self.sink.lapses.set(self.kind, &name, end);
        Some(name)
    }

    /// Takes a resource that came without its message: the one in force lives on, from now.
    pub(super) fn prolong(&mut self, name: &str, ttl: Option<&prost_types::Duration>, is_in_force: bool) {
        self.seen.insert(name.to_owned());
        if is_in_force && let Some(end) = self.end(name, ttl) {
            self.sink.lapses.set(self.kind, name, end);
        }
    }

    /// When a resource is gone that lives for `ttl`; `None` outside: it is refused, inside: it is not.
    fn end(&mut self, name: &str, ttl: Option<&prost_types::Duration>) -> Option<Option<Instant>> {
        match lapse::end(ttl, Instant::now()) {
            Ok(end) => Some(end),
            Err(error) => {
                self.refuse(name, format!("{} {name:?}: {error}", self.kind));
                None
            }
        }
    }

    /// Refuses a resource; the last good one stays in force.
    pub(super) fn refuse(&mut self, name: &str, error: String) {
        if self.wildcard && !name.is_empty() {
            self.sink.store.expect(self.kind, name);
            self.refused.push(name.to_owned());
        }
        self.sink.store.reject(self.kind, name, error.clone());
        self.errors.push(error);
    }

    /// The names that were refused, where everything is asked for.
    pub(super) fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Whether every resource could be read so far that its name is known: a message that could not has the empty name,
    /// and could have been any.
    pub(super) fn is_legible(&self) -> bool {
        !self.seen.contains("")
    }

    /// Takes the server's word that there is no such resource.
    pub(super) fn remove(&mut self, name: &str) {
        self.sink.lapses.set(self.kind, name, None);
        self.sink.store.absent(self.kind, name);
    }

    /// Whether a name was in the response, taken or not.
    pub(super) fn saw(&self, name: &str) -> bool {
        self.seen.contains(name) || self.garbled.contains(name)
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

/// Whether connections can get to a listener: it has an address, or its name is the address that it is found by.
fn reachable(name: &str, listener: &Listener) -> Result<(), String> {
    if listener.address.is_some() || name.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    Err(format!(
        "lds {name:?}: with bind_to_port: false it must be named by the address that it is for, such as \"10.96.0.7:80\""
    ))
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
