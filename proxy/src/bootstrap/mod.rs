//! The bootstrap: who the proxy is, what it serves from the start, and where its control plane is.
//!
//! A subset of Envoy's, YAML or JSON, `snake_case` or `camelCase`. Of fields outside the subset those that say
//! how Envoy itself is to run (statistics, watchdogs, runtime, overload) are left out and told; any other is an
//! error that names its path, or told too with `--allow-unknown-static-fields`. Secrets may come from files, in place or from the environment; files of the file-based SDS
//! (`path_config_source`, or the old `path`) are read too.

#![allow(
    deprecated,
    reason = "forms that Envoy deprecated are still sent, and are taken"
)]

mod error;
mod files;
mod outside;
mod read;
mod resources;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost_types::{Any, Value, value::Kind};
use weir_xds::{
    ResourceType,
    envoy::config::{
        bootstrap::v3::{Bootstrap as Message, bootstrap::DynamicResources},
        cluster::v3::Cluster as ClusterMessage,
        core::v3::{
            ApiConfigSource, ApiVersion, ConfigSource, GrpcService, Node, api_config_source::ApiType,
            config_source::ConfigSourceSpecifier, grpc_service::TargetSpecifier,
        },
    },
    pack,
};

pub use error::BootstrapError;
pub use files::FileSecret;

use crate::{
    model::{Cluster, Listener, Secret},
    xds::{Keepalive, Source, Store, decode},
};

/// The secret that the proxy itself provides when it gets its certificate signed.
pub const WORKLOAD_CERTIFICATE: &str = "workload-cert";
/// The secret with the roots of the mesh; the bootstrap's holds until the control plane serves it.
pub const TRUST_BUNDLE: &str = "trust-bundle";
/// Node metadata key for the ServiceAccount token's path; present: the certificate is got by signing request.
pub const TOKEN_PATH: &str = "WEIR_TOKEN_PATH";

/// What the bootstrap says.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Who the proxy is, as the control plane is told.
    pub node: Node,
    /// Where the admin page is served.
    pub admin: Option<SocketAddr>,
    /// Listeners to bind.
    pub listeners: Vec<Static<Listener>>,
    /// Clusters with a fixed definition.
    pub clusters: Vec<Static<Cluster>>,
    /// Secrets, from the bootstrap and from the files that its SDS settings name.
    pub secrets: Vec<Static<Secret>>,
    /// Those of the secrets that are followed in files.
    pub files: Vec<FileSecret>,
    /// The control plane; `None`: everything is static.
    pub ads: Option<Ads>,
    /// The ServiceAccount token to prove the identity with; `None`: certificates are static.
    pub token_path: Option<PathBuf>,
    /// Settings that were accepted without effect.
    pub ignored: Vec<String>,
    /// The message itself, for the config dump.
    pub source: Arc<Any>,
}

/// A static resource.
#[derive(Clone, Debug)]
pub struct Static<T> {
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: Arc<T>,
    /// Its message, for the config dump.
    pub source: Source,
}

/// How to talk to the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ads {
    /// Incremental, or state of the world.
    pub protocol: Protocol,
    /// The static cluster that leads to it.
    pub cluster: String,
    /// What it is called in requests; `None`: as the cluster.
    pub authority: Option<String>,
    /// gRPC metadata of the stream, such as a token.
    pub metadata: Vec<(String, String)>,
    /// Types of which everything is asked for, in place of names as they are needed.
    pub wildcard: BTreeSet<ResourceType>,
    /// HTTP/2 pings; `None` where the cluster asks for TCP keepalive only.
    pub keepalive: Option<Keepalive>,
}

/// The variant of the aggregated stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `DELTA_GRPC`.
    Delta,
    /// `GRPC`.
    StateOfTheWorld,
}

/// What flags and environment say over the bootstrap.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `node.id`.
    pub node_id: Option<String>,
    /// `node.cluster`.
    pub node_cluster: Option<String>,
    /// `node.locality.zone`.
    pub zone: Option<String>,
    /// Further `node.metadata`, which does not replace what is there.
    pub metadata: Vec<(String, String)>,
    /// Whether fields outside the subset are told and left out, instead of refused.
    pub allow_unknown: bool,
}

impl Bootstrap {
    /// Reads a file, merges the text given in place over it, and decodes the whole.
    ///
    /// # Errors
    /// When either cannot be read, has a field outside the subset, or a resource is not usable.
    pub fn load(
        file: Option<&Path>,
        yaml: Option<&str>,
        overrides: Overrides,
    ) -> Result<Self, BootstrapError> {
        let mut message = match file {
            Some(path) => read::file(path)?,
            None => serde_json::Value::default(),
        };
        if let Some(text) = yaml {
            read::merge(&mut message, read::text(text, "--config-yaml")?);
        }
        let (message, left_out) = read::message(message, overrides.allow_unknown)?;
        let mut bootstrap = Self::from_message(message, overrides)?;
        bootstrap.ignored.extend(left_out);
        Ok(bootstrap)
    }

    /// Reads text into a message without looking at what it asks for.
    ///
    /// # Errors
    /// When it is neither YAML nor JSON, or has a field outside the subset.
    pub fn parse(text: &str) -> Result<Message, BootstrapError> {
        let (message, _) = read::message(read::text(text, "bootstrap")?, false)?;
        Ok(message)
    }

    /// Decodes a bootstrap message.
    ///
    /// # Errors
    /// As [`Bootstrap::load`].
    pub fn from_message(message: Message, overrides: Overrides) -> Result<Self, BootstrapError> {
        let source = Arc::new(pack(&message));
        let node = node(message.node.unwrap_or_default(), overrides);
        let token_path = resources::metadata_string(&node, TOKEN_PATH).map(PathBuf::from);
        let admin = match message.admin.and_then(|admin| admin.address) {
            Some(address) => Some(decode::address(&address).map_err(|error| error.at("admin"))?),
            None => None,
        };
        let statics = message.static_resources.unwrap_or_default();
        let dynamic = message.dynamic_resources.unwrap_or_default();
        let wildcard = wildcard(&dynamic)?;
        let ads = match dynamic.ads_config {
            Some(config) => Some(ads(&config, &statics.clusters, wildcard)?),
            None => None,
        };
        if ads.is_some() && node.id.is_empty() {
            return Err(BootstrapError::Invalid(
                "a control plane has to know who asks: give node.id, or the flag --service-node".to_owned(),
            ));
        }
        let resources = resources::decode(statics)?;
        Ok(Self {
            node,
            admin,
            listeners: resources.listeners,
            clusters: resources.clusters,
            secrets: resources.secrets,
            files: resources.files,
            ads,
            token_path,
            ignored: resources.ignored,
            source,
        })
    }

    /// Puts the static resources into the store, logs settings that have no effect, and follows the secrets that
    /// are in files. Needs a runtime where there are such.
    pub fn publish(&self, store: &Store) {
        for setting in &self.ignored {
            tracing::warn!(setting, "the bootstrap has a setting that has no effect here");
        }
        if self.ads.is_none() {
            store.seal();
        }
        if self.token_path.is_some() {
            store.reserve::<Secret>(WORKLOAD_CERTIFICATE);
        }
        for secret in &self.secrets {
            if secret.name == TRUST_BUNDLE && self.ads.is_some() {
                store.seed(&secret.name, secret.value.clone(), secret.source.clone());
            } else {
                publish(store, secret);
            }
        }
        for cluster in &self.clusters {
            publish(store, cluster);
        }
        for listener in &self.listeners {
            publish(store, listener);
        }
        if !self.files.is_empty() {
            tokio::spawn(files::follow(self.files.clone(), store.clone()));
        }
    }
}

fn publish<T: crate::xds::Stored>(store: &Store, resource: &Static<T>) {
    store.publish_from(&resource.name, resource.value.clone(), resource.source.clone());
}

/// A message of the contract in protobuf's JSON form, as tests write it.
#[cfg(test)]
pub(crate) fn from_json<M: weir_xds::TypeUrl>(text: &str) -> Result<M, BootstrapError> {
    read::typed(read::text(text, "test")?, "test")
}

/// The node with what flags and environment say, and with who we are.
fn node(mut node: Node, overrides: Overrides) -> Node {
    if let Some(id) = overrides.node_id {
        node.id = id;
    }
    if let Some(cluster) = overrides.node_cluster {
        node.cluster = cluster;
    }
    if let Some(zone) = overrides.zone {
        node.locality.get_or_insert_default().zone = zone;
    }
    let metadata = node.metadata.get_or_insert_default();
    for (key, text) in overrides.metadata {
        metadata.fields.entry(key).or_insert(Value {
            kind: Some(Kind::StringValue(text)),
        });
    }
    if node.user_agent_name.is_empty() {
        node.user_agent_name = env!("CARGO_PKG_NAME").to_owned();
        node.user_agent_version_type = Some(
            weir_xds::envoy::config::core::v3::node::UserAgentVersionType::UserAgentVersion(
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
        );
    }
    node
}

/// The types that are to come whole, as Envoy asks for them: those with a source, which must be the aggregated stream.
fn wildcard(dynamic: &DynamicResources) -> Result<BTreeSet<ResourceType>, BootstrapError> {
    let sources = [
        ("lds_config", &dynamic.lds_config, ResourceType::Listener),
        ("cds_config", &dynamic.cds_config, ResourceType::Cluster),
    ];
    let over_ads = |source: &ConfigSource| {
        let specifier = source.config_source_specifier.as_ref();
        matches!(specifier, Some(ConfigSourceSpecifier::Ads(_)))
    };
    let mut wildcard = BTreeSet::new();
    for (field, source, kind) in sources {
        match source {
            None => {}
            Some(source) if over_ads(source) && dynamic.ads_config.is_some() => {
                wildcard.insert(kind);
            }
            Some(_) => {
                return Err(BootstrapError::Invalid(format!(
                    "dynamic_resources.{field}: only the aggregated stream is supported: give ads: {{}} here, and \
                     ads_config beside it"
                )));
            }
        }
    }
    Ok(wildcard)
}

fn ads(
    config: &ApiConfigSource,
    clusters: &[ClusterMessage],
    wildcard: BTreeSet<ResourceType>,
) -> Result<Ads, BootstrapError> {
    let invalid = |reason: String| BootstrapError::Invalid(format!("dynamic_resources.ads_config: {reason}"));
    let protocol = match ApiType::try_from(config.api_type) {
        Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) => Protocol::Delta,
        Ok(ApiType::Grpc | ApiType::AggregatedGrpc) => Protocol::StateOfTheWorld,
        _ => return Err(invalid("api_type must be DELTA_GRPC or GRPC".to_owned())),
    };
    if config.transport_api_version == ApiVersion::V2 as i32 {
        return Err(invalid("transport_api_version must be V3".to_owned()));
    }
    let service = config.grpc_services.first();
    let target = match service.and_then(|service| service.target_specifier.as_ref()) {
        Some(TargetSpecifier::EnvoyGrpc(target)) => target,
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            return Err(invalid(
                "grpc_services[0].google_grpc is not supported: give envoy_grpc with a static cluster"
                    .to_owned(),
            ));
        }
        None => {
            return Err(invalid(
                "grpc_services[0].envoy_grpc.cluster_name is missing".to_owned(),
            ));
        }
    };
    let metadata = service.map(metadata).transpose().map_err(invalid)?;
    let Some(cluster) = clusters
        .iter()
        .find(|cluster| cluster.name == target.cluster_name)
    else {
        return Err(invalid(format!(
            "cluster {:?} is not among static_resources.clusters: add it there",
            target.cluster_name
        )));
    };
    Ok(Ads {
        protocol,
        cluster: cluster.name.clone(),
        authority: Some(target.authority.clone()).filter(|authority| !authority.is_empty()),
        metadata: metadata.unwrap_or_default(),
        wildcard,
        // Servers with grpc-go's default enforcement close connections that ping more than once in five
        // minutes; a cluster that asks for TCP keepalive is taken to lead to one of those.
        keepalive: (!resources::tcp_keepalive_only(cluster)).then(Keepalive::default),
    })
}

/// The metadata of a stream, each part of which must be fit for a header.
fn metadata(service: &GrpcService) -> Result<Vec<(String, String)>, String> {
    let pairs = service.initial_metadata.iter().map(|header| {
        let name = header.key.to_ascii_lowercase();
        let fit = !name.ends_with("-bin")
            && name.parse::<tonic::metadata::AsciiMetadataKey>().is_ok()
            && header
                .value
                .parse::<tonic::metadata::AsciiMetadataValue>()
                .is_ok();
        match fit {
            true => Ok((name, header.value.clone())),
            false => Err(format!(
                "grpc_services[0].initial_metadata: {name:?} and its value are not fit for a header"
            )),
        }
    });
    pairs.collect()
}
