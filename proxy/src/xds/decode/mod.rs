//! Resources as sent → [`model`](crate::model), or a precise reason why not.
//!
//! A setting that Weir does not implement is refused when leaving it out would change who may do what or where
//! traffic goes, and otherwise noted as ignored. Fields declared in the contract as "refused when set" are of
//! the first kind. Nothing here does I/O except through [`Origin::Bootstrap`]'s data sources, and nothing
//! panics whatever the bytes are.

#![allow(
    deprecated,
    reason = "forms that Envoy deprecated are still sent, and are taken"
)]

mod action;
mod cluster;
mod endpoints;
mod error;
mod field;
mod http;
mod listener;
mod matcher;
mod network;
mod rbac;
mod route;
#[cfg(test)]
mod tests;
mod tls;

use std::{collections::BTreeSet, sync::Arc};

use prost_types::Any;
use weir_xds::{
    Resource, ResourceType, UnpackError,
    envoy::{
        config::{cluster::v3 as cds, endpoint::v3 as eds, listener::v3 as lds, route::v3 as rds},
        extensions::transport_sockets::tls::v3 as sds,
    },
    unpack,
};

pub use error::DecodeError;
pub use field::address;

use crate::model::{Cluster, Endpoints, Listener, RouteTable, Secret};

/// Where a message comes from, which decides what it may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The bootstrap: may name files and environment variables of this machine.
    Bootstrap,
    /// The control plane: may not.
    Stream,
}

/// What decoding carries along.
#[derive(Debug)]
pub struct Context {
    /// Where the message comes from.
    pub origin: Origin,
    /// Settings that were accepted without effect.
    pub ignored: BTreeSet<&'static str>,
    /// Names of messages that had fields outside the contract.
    pub unknown: BTreeSet<&'static str>,
}

impl Context {
    /// Nothing ignored yet.
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            ignored: BTreeSet::new(),
            unknown: BTreeSet::new(),
        }
    }

    fn ignore(&mut self, setting: &'static str, set: bool) {
        if set {
            self.ignored.insert(setting);
        }
    }
}

/// A decoded resource of any type.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// CDS.
    Cluster(Arc<Cluster>),
    /// EDS.
    Endpoints(Arc<Endpoints>),
    /// SDS.
    Secret(Arc<Secret>),
    /// LDS.
    Listener(Arc<Listener>),
    /// RDS.
    Route(Arc<RouteTable>),
}

/// A resource that decodes into a model.
pub trait Decode: Resource {
    /// What it decodes into.
    type Model: crate::xds::Stored;

    /// Decodes it.
    ///
    /// # Errors
    /// When it asks for what is wrong or not supported.
    fn decode(self, context: &mut Context) -> Result<Self::Model, DecodeError>;
}

macro_rules! decode {
    ($message:ty, $model:ty, $function:path) => {
        impl Decode for $message {
            type Model = $model;

            fn decode(self, context: &mut Context) -> Result<$model, DecodeError> {
                let what = format!("{} {:?}", Self::TYPE.short(), self.resource_name());
                $function(self, context).map_err(|error| error.at(what))
            }
        }
    };
}

decode!(cds::Cluster, Cluster, cluster::cluster);
decode!(eds::ClusterLoadAssignment, Endpoints, endpoints::endpoints);
decode!(sds::Secret, Secret, tls::secret);
decode!(lds::Listener, Listener, listener::listener);
decode!(rds::RouteConfiguration, RouteTable, route::table);

/// A resource of the stream: its name, when at least that could be read, and what it says.
#[derive(Debug)]
pub struct Read {
    /// The name in the message.
    pub name: Option<String>,
    /// What it says, or why it is refused.
    pub outcome: Result<Decoded, DecodeError>,
}

/// Reads a resource of the stream.
pub fn resource(kind: ResourceType, any: &Any, context: &mut Context) -> Read {
    fn read<R: Decode>(any: &Any, context: &mut Context, wrap: fn(Arc<R::Model>) -> Decoded) -> Read {
        match message::<R>(any, context) {
            Ok(message) => Read {
                name: Some(message.resource_name().to_owned()),
                outcome: message.decode(context).map(|model| wrap(Arc::new(model))),
            },
            Err(error) => Read {
                name: None,
                outcome: Err(error),
            },
        }
    }
    match kind {
        ResourceType::Cluster => read::<cds::Cluster>(any, context, Decoded::Cluster),
        ResourceType::Endpoints => read::<eds::ClusterLoadAssignment>(any, context, Decoded::Endpoints),
        ResourceType::Secret => read::<sds::Secret>(any, context, Decoded::Secret),
        ResourceType::Listener => read::<lds::Listener>(any, context, Decoded::Listener),
        ResourceType::Route => read::<rds::RouteConfiguration>(any, context, Decoded::Route),
    }
}

/// Unwraps an `Any` that must hold an `M`.
fn message<M: weir_xds::TypeUrl>(any: &Any, context: &mut Context) -> Result<M, DecodeError> {
    let message: M = unpack(any).map_err(|error| match error {
        UnpackError::Type { .. } => DecodeError::new(error.to_string()),
        UnpackError::Decode(error) => DecodeError::new(format!("the bytes are not a valid message: {error}")),
    })?;
    // Fields outside the contract were dropped, so fewer bytes would go back than came.
    if message.encoded_len() < any.value.len() {
        context.unknown.insert(M::NAME);
    }
    Ok(message)
}
