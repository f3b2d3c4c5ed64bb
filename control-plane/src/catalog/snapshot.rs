//! The catalog's result: what the mesh is at one moment, ready to be turned into xDS resources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use crate::{
    endpoints::Revision,
    spec::{Diagnostic, Key},
    table::Table,
};

/// The mesh at one moment. Parts that did not change since the last snapshot are shared with it, so that two snapshots
/// can be compared at the cost of what differs.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows by one with each snapshot.
    pub generation: u64,
    /// MeshConfig.
    pub mesh: Arc<MeshSettings>,
    /// Services of monitored namespaces.
    pub services: Table<ServiceKey, Arc<Service>>,
    /// Which service a ClusterIP belongs to.
    pub addresses: Table<IpAddr, ServiceKey>,
    /// The services that lead to an address of a ready pod, the one first that a connection to the address itself
    /// belongs to: headless services, then those that no TrafficSplit takes apart, each by name.
    pub direct: Table<IpAddr, Arc<[ServiceKey]>>,
    /// Pods with a sidecar, by UID.
    pub pods: Table<Arc<str>, Arc<Pod>>,
    /// What is wrong with the objects it was made of, each on its own and together, in order.
    pub diagnostics: Arc<Vec<Diagnostic>>,
    /// Every policy object of the cluster at that moment; empty where objects come from files.
    pub policies: Table<Key, Arc<Revision>>,
}

/// `namespace/name` of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// Its ClusterIPs; empty for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports, by number.
    pub ports: Vec<ServicePort>,
    /// SPIFFE URIs of the pods behind it, ready or not.
    pub principals: BTreeSet<Arc<str>>,
    /// Its TrafficSplit's backends, those of weight 0 included; `None`: it is its own only backend.
    pub split: Option<Vec<Backend>>,
    /// Whether any client may reach it at all: permissive mode, or some TrafficTarget names one of the
    /// ServiceAccounts behind it or behind a backend of its split.
    pub reachable: bool,
}

/// A backend of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service that gets the traffic, on the same port number.
    pub service: ServiceKey,
    /// Its share of the sum of weights.
    pub weight: u32,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Port number of the Service.
    pub number: u16,
    /// Name, empty when it has none.
    pub name: String,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Ready endpoints with a sidecar.
    pub endpoints: Vec<Endpoint>,
}

/// What is spoken on a port: `appProtocol`, then the port name's prefix, else undeclared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1 or HTTP/2.
    Http,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
    /// Bytes, the server speaking first.
    TcpServerFirst,
    /// Not declared: told by the first bytes.
    Undeclared,
}

/// A pod behind a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Pod IP.
    pub ip: IpAddr,
    /// Target port.
    pub port: u16,
    /// SPIFFE URI of the pod.
    pub principal: Arc<str>,
    /// Who it is in metrics.
    pub workload: Arc<Workload>,
}

/// A pod's names in metric labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Namespace.
    pub namespace: String,
    /// Kind of the owner (`Deployment`, `StatefulSet`, `Job`..., `Pod` when it has none).
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Name of the pod.
    pub pod: String,
}

/// A pod with a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// ServiceAccount.
    pub service_account: String,
    /// SPIFFE URI.
    pub principal: Arc<str>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Who it is in metrics.
    pub workload: Arc<Workload>,
    /// What it serves, by target port.
    pub inbound: Vec<InboundPort>,
}

/// A target port of a pod, and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPort {
    /// The port the application listens on.
    pub port: u16,
    /// What is spoken on it. Where services disagree, the first service by name wins and a warning is given.
    pub protocol: Protocol,
    /// The services that lead to it, by name.
    pub services: Vec<ServiceKey>,
    /// Who may use it.
    pub authorization: Arc<Authorization>,
}

/// Who may use a ServiceAccount's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Any peer with a certificate of the mesh.
    Permissive,
    /// Only what the rules name. Nothing in both lists: no one.
    Rules {
        /// Per HTTPRouteGroup match; one rule a match, the principals of all TrafficTargets that name it united.
        http: Vec<HttpRule>,
        /// Per TrafficTarget. A TrafficTarget with only HTTP rules stands here with no ports: any port.
        tcp: Vec<TcpRule>,
    },
}

/// Principals and the objects that allow them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `namespace/name` of the TrafficTargets, in order.
    pub policies: BTreeSet<String>,
    /// SPIFFE URIs allowed.
    pub principals: BTreeSet<Arc<str>>,
}

/// Requests that some principals may make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// Full-match RE2 expression on the path.
    pub path_regex: String,
    /// Upper-case methods; empty: every method.
    pub methods: BTreeSet<String>,
    /// Lower-case header name (`:authority` for `host`) and the full-match expression of its value, all of which must
    /// hold.
    pub headers: BTreeMap<String, String>,
    /// Who.
    pub rule: Rule,
}

/// Connections that some principals may make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRule {
    /// Target ports; empty: every port.
    pub ports: BTreeSet<u16>,
    /// Granted so that HTTP rules can be applied to what comes over the connection, not for bytes of any kind.
    pub for_requests: bool,
    /// Who.
    pub rule: Rule,
}

/// MeshConfig, as far as proxies are concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshSettings {
    /// Policies are not enforced.
    pub permissive: bool,
    /// Addresses outside the mesh are passed through.
    pub egress: bool,
    /// How long a workload certificate is valid.
    pub certificate_validity: Duration,
    /// TLS between sidecars.
    pub tls: TlsSettings,
    /// Most proxies that one controller serves; `None`: any number.
    pub proxies: Option<usize>,
    /// SPIFFE trust domain.
    pub trust_domain: String,
}

/// TLS between sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// TLS 1.2 clients are accepted.
    pub allow_1_2: bool,
    /// TLS 1.3 is spoken.
    pub allow_1_3: bool,
    /// Cipher suites of TLS 1.2, preferred first, of [`weir_xds::algorithms`]; none: any.
    pub cipher_suites: Vec<String>,
    /// Key exchanges, preferred first, of the same; none: any.
    pub curves: Vec<String>,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            permissive: false,
            egress: true,
            certificate_validity: Duration::from_secs(24 * 60 * 60),
            tls: TlsSettings {
                allow_1_2: false,
                allow_1_3: true,
                cipher_suites: Vec::new(),
                curves: Vec::new(),
            },
            proxies: None,
            trust_domain: "cluster.local".to_owned(),
        }
    }
}
