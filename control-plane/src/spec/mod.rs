//! The mesh specification: the Kubernetes, SMI and OSM objects that configure a mesh, read from text.
//!
//! [`read`] turns one YAML or JSON document into an [`Object`] and says what is wrong with it, each time with file,
//! line, field and remedy; [`read_json`] does it for an object of a cluster. It looks at one object alone; what refers to other objects is checked by the
//! [`catalog`](crate::catalog).

mod diagnostic;
mod input;
mod locate;
mod membership;
mod mesh_config;
mod owner;
mod policy;
mod read;
mod smi;
mod split;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};

pub use diagnostic::{Diagnostic, Finding, Severity};
pub use membership::{PROXY_CONTAINER, has_sidecar, is_monitored};
pub use mesh_config::{
    Certificate, FeatureFlags, GoDuration, LOG_LEVELS, LocalProxyMode, MeshConfig, MeshConfigSpec,
    Observability, Sidecar, Traffic,
};
pub use owner::Owner;
pub use policy::{
    Egress, EgressSpec, IngressBackend, IngressBackendPort, IngressBackendSpec, IngressTls, LimitedRoute,
    ObjectReference, PolicyPort, Retry, RetryPolicy, RetrySpec, UpstreamTrafficSetting, UpstreamTrafficSpec,
};
pub use read::{Document, Key, read, read_json};
pub use smi::{
    HttpMatch, HttpRouteGroup, HttpRouteGroupSpec, PolicyMeta, Subject, TargetRule, TcpMatch, TcpRoute,
    TcpRouteSpec, TrafficSplit, TrafficSplitBackend, TrafficSplitSpec, TrafficTarget, TrafficTargetSpec,
};
pub use split::split;

/// Namespace and name of an object; the namespace is empty for cluster-wide kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// The name `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// An object the mesh is made of.
#[derive(Clone, Debug)]
pub enum Object {
    /// `v1` Namespace.
    Namespace(Arc<Stored<Namespace>>),
    /// `v1` Service.
    Service(Arc<Stored<Service>>),
    /// `v1` ServiceAccount.
    ServiceAccount(Arc<Stored<ServiceAccount>>),
    /// `v1` Pod.
    Pod(Arc<Stored<Pod>>),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(Arc<Stored<EndpointSlice>>),
    /// `access.smi-spec.io/v1alpha3` TrafficTarget.
    TrafficTarget(Arc<Stored<TrafficTarget>>),
    /// `specs.smi-spec.io/v1alpha4` HTTPRouteGroup.
    HttpRouteGroup(Arc<Stored<HttpRouteGroup>>),
    /// `specs.smi-spec.io/v1alpha4` TCPRoute.
    TcpRoute(Arc<Stored<TcpRoute>>),
    /// `split.smi-spec.io` TrafficSplit.
    TrafficSplit(Arc<Stored<TrafficSplit>>),
    /// `config.openservicemesh.io/v1alpha2` MeshConfig.
    MeshConfig(Arc<Stored<MeshConfig>>),
}

/// An object and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    /// The object.
    pub value: T,
    /// Where it stands.
    pub source: Source,
}

/// Where an object was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The file; empty for an object of a cluster.
    pub file: Arc<str>,
    /// Line of the file on which `text` starts; the first is 1. 0 for an object of a cluster.
    pub line: u32,
    /// The document; empty where it is not kept (pods and endpoints, which are many).
    pub text: Arc<str>,
}

impl Source {
    /// Line and column of a field such as `spec.backends[1].service`, or of the nearest field around it that is written.
    /// In an object of a cluster there are none: `(0, 0)`.
    #[must_use]
    pub fn locate(&self, field: &str) -> (u32, u32) {
        if self.line == 0 {
            return (0, 0);
        }
        let (line, column) = locate::position(&self.text, field);
        (self.line + line - 1, column)
    }

    /// A diagnostic about a field of the object written here.
    #[must_use]
    pub fn diagnostic(&self, object: String, finding: Finding) -> Diagnostic {
        let (line, column) = self.locate(&finding.field);
        Diagnostic {
            severity: finding.severity,
            object,
            file: self.file.clone(),
            line,
            column,
            field: finding.field,
            message: finding.message,
            remedy: finding.remedy,
        }
    }
}
