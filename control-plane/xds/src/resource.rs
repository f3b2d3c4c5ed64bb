//! Type URLs: which message an `Any` holds, and the five resource types that are subscribed to.

use std::fmt;

use prost::{DecodeError, Message, Name};
use prost_types::Any;

use crate::envoy::{
    config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
    extensions::transport_sockets::tls::v3::Secret,
};

/// A message that travels in an `Any` under `type.googleapis.com/<full name>`.
pub trait TypeUrl: Message + Name + Default {
    /// The URL that names this message in `Any.type_url`.
    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}

impl<M: Message + Name + Default> TypeUrl for M {}

/// Wraps a message in an `Any` under its own type URL.
pub fn pack<M: TypeUrl>(message: &M) -> Any {
    Any {
        type_url: <M as TypeUrl>::type_url(),
        value: message.encode_to_vec(),
    }
}

/// Unwraps an `Any` that should hold an `M`.
///
/// # Errors
/// When the `Any` names another type, or its bytes are not a valid `M`.
pub fn unpack<M: TypeUrl>(any: &Any) -> Result<M, UnpackError> {
    let wanted = <M as TypeUrl>::type_url();
    if any.type_url != wanted {
        return Err(UnpackError::Type {
            wanted,
            found: any.type_url.clone(),
        });
    }
    Ok(M::decode(any.value.as_slice())?)
}

/// Why an `Any` could not be read as the message that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The `Any` holds a message of another type.
    #[error("expected a {wanted}, found {found:?}")]
    Type {
        /// The type URL that the context asks for.
        wanted: String,
        /// The type URL that was sent.
        found: String,
    },
    /// The bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The resource types of the aggregated stream, in the order in which a server must send them so
/// that nothing refers to what has not arrived ("make before break").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// SDS.
    Secret,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl ResourceType {
    /// Every type, in make-before-break order.
    pub const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Secret,
        Self::Listener,
        Self::Route,
    ];

    /// The type URL used in discovery requests and responses.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type whose URL this is.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// The short name used in logs, metrics and config dumps: `cds`, `eds`, `sds`, `lds`, `rds`.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoints => "eds",
            Self::Secret => "sds",
            Self::Listener => "lds",
            Self::Route => "rds",
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// A message that is a resource of the aggregated stream.
pub trait Resource: TypeUrl {
    /// Its type.
    const TYPE: ResourceType;

    /// The name that subscriptions use.
    fn resource_name(&self) -> &str;
}

macro_rules! resource {
    ($message:ty, $kind:ident, $name:ident) => {
        impl Resource for $message {
            const TYPE: ResourceType = ResourceType::$kind;

            fn resource_name(&self) -> &str {
                &self.$name
            }
        }
    };
}

resource!(Cluster, Cluster, name);
resource!(ClusterLoadAssignment, Endpoints, cluster_name);
resource!(Secret, Secret, name);
resource!(Listener, Listener, name);
resource!(RouteConfiguration, Route, name);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_type_names_the_message_it_carries() {
        fn url<R: Resource>() -> (String, &'static str) {
            (<R as TypeUrl>::type_url(), R::TYPE.url())
        }
        for (derived, stated) in [
            url::<Cluster>(),
            url::<ClusterLoadAssignment>(),
            url::<Secret>(),
            url::<Listener>(),
            url::<RouteConfiguration>(),
        ] {
            assert_eq!(derived, stated);
        }
    }

    #[test]
    fn unpack_refuses_another_type() {
        let any = pack(&Cluster::default());
        assert!(unpack::<Cluster>(&any).is_ok());
        assert!(matches!(unpack::<Listener>(&any), Err(UnpackError::Type { .. })));
    }
}
