//! The bootstrap's resources → model.

use std::{collections::HashSet, path::Path, sync::Arc};

use prost_types::value::Kind;
use weir_xds::{
    TypeUrl,
    envoy::{
        config::{
            bootstrap::v3::bootstrap::StaticResources,
            cluster::v3::Cluster as ClusterMessage,
            core::v3::{Node, config_source::ConfigSourceSpecifier, transport_socket::ConfigType},
        },
        extensions::transport_sockets::tls::v3::{
            CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret as SecretMessage,
            UpstreamTlsContext, common_tls_context::ValidationContextType,
        },
    },
    pack, unpack,
};

use super::{BootstrapError, Static, read};
use crate::{
    model::{Cluster, Listener, Secret},
    xds::{
        Source,
        decode::{Context, Decode, Origin},
    },
};

/// What the static part decodes into.
pub(super) struct Resources {
    pub(super) listeners: Vec<Static<Listener>>,
    pub(super) clusters: Vec<Static<Cluster>>,
    pub(super) secrets: Vec<Static<Secret>>,
    pub(super) ignored: Vec<String>,
}

/// Decodes the static part, and the secrets in files that it refers to.
pub(super) fn decode(statics: &StaticResources) -> Result<Resources, BootstrapError> {
    let mut context = Context::new(Origin::Bootstrap);
    let mut secrets = statics.secrets.clone();
    for (name, path) in file_secrets(statics)? {
        if !secrets.iter().any(|secret| secret.name == name) {
            secrets.push(secret_in_file(&name, Path::new(&path))?);
        }
    }
    let resources = Resources {
        listeners: each(statics.listeners.clone(), &mut context)?,
        clusters: each(statics.clusters.clone(), &mut context)?,
        secrets: each(secrets, &mut context)?,
        ignored: Vec::new(),
    };
    Ok(Resources {
        ignored: context.ignored.into_iter().map(str::to_owned).collect(),
        ..resources
    })
}

fn each<M: Decode + Clone>(
    messages: Vec<M>,
    context: &mut Context,
) -> Result<Vec<Static<M::Model>>, BootstrapError> {
    let mut seen = HashSet::new();
    messages
        .into_iter()
        .map(|message| {
            let name = message.resource_name().to_owned();
            if !seen.insert(name.clone()) {
                let kind = M::TYPE;
                return Err(BootstrapError::Invalid(format!(
                    "{kind} {name:?} is there twice: rename one"
                )));
            }
            let source = Source {
                version: String::new(),
                message: Some(Arc::new(pack(&message))),
            };
            Ok(Static {
                name,
                value: Arc::new(message.decode(context)?),
                source,
            })
        })
        .collect()
}

/// Names and files of the secrets that TLS contexts take from files.
fn file_secrets(statics: &StaticResources) -> Result<Vec<(String, String)>, BootstrapError> {
    let listeners = statics.listeners.iter().flat_map(|listener| {
        let chains = listener
            .filter_chains
            .iter()
            .chain(&listener.default_filter_chain);
        chains.filter_map(|chain| chain.transport_socket.as_ref())
    });
    let clusters = statics
        .clusters
        .iter()
        .filter_map(|cluster| cluster.transport_socket.as_ref());
    let mut found = Vec::new();
    for socket in listeners.chain(clusters) {
        let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
            continue;
        };
        let common = if any.type_url == UpstreamTlsContext::type_url() {
            unpack::<UpstreamTlsContext>(any).map(|tls| tls.common_tls_context)
        } else if any.type_url == DownstreamTlsContext::type_url() {
            unpack::<DownstreamTlsContext>(any).map(|tls| tls.common_tls_context)
        } else {
            Ok(None)
        };
        let common = common.map_err(|error| BootstrapError::Invalid(error.to_string()))?;
        found.extend(common.iter().flat_map(secret_configs).filter_map(file_of));
    }
    Ok(found)
}

fn secret_configs(common: &CommonTlsContext) -> Vec<&SdsSecretConfig> {
    let mut configs: Vec<_> = common.tls_certificate_sds_secret_configs.iter().collect();
    match &common.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => configs.push(config),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            configs.extend(&combined.validation_context_sds_secret_config);
        }
        _ => {}
    }
    configs
}

fn file_of(config: &SdsSecretConfig) -> Option<(String, String)> {
    let path = match config.sds_config.as_ref()?.config_source_specifier.as_ref()? {
        ConfigSourceSpecifier::Path(path) => path.clone(),
        ConfigSourceSpecifier::PathConfigSource(source) => source.path.clone(),
        _ => return None,
    };
    Some((config.name.clone(), path))
}

/// A secret out of a file that holds a `DiscoveryResponse`.
fn secret_in_file(name: &str, path: &Path) -> Result<SecretMessage, BootstrapError> {
    let origin = path.display().to_string();
    let mut content = read::file(path)?;
    let resources = content
        .get_mut("resources")
        .and_then(serde_json::Value::as_array_mut)
        .ok_or_else(|| BootstrapError::Field {
            origin: origin.clone(),
            path: "resources".to_owned(),
            reason: "expected a list of secrets".to_owned(),
        })?;
    for resource in resources {
        if let Some(fields) = resource.as_object_mut() {
            fields.remove("@type");
        }
        let secret: SecretMessage = read::typed(resource.take(), &origin)?;
        if secret.name == name {
            return Ok(secret);
        }
    }
    Err(BootstrapError::Invalid(format!(
        "{origin} holds no secret named {name:?}"
    )))
}

/// A string in a node's metadata.
pub(super) fn metadata_string(node: &Node, key: &str) -> Option<String> {
    match &node.metadata.as_ref()?.fields.get(key)?.kind {
        Some(Kind::StringValue(text)) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

/// Whether a cluster's connections are kept alive by TCP and by nothing else.
pub(super) fn tcp_keepalive_only(cluster: &ClusterMessage) -> bool {
    cluster
        .upstream_connection_options
        .as_ref()
        .is_some_and(|options| options.tcp_keepalive.is_some())
}
