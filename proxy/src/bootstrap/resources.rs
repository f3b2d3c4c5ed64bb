//! The bootstrap's resources → model.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use prost_types::value::Kind;
use weir_xds::{
    TypeUrl, UnpackError,
    envoy::{
        config::{
            bootstrap::v3::bootstrap::StaticResources,
            cluster::v3::Cluster as ClusterMessage,
            core::v3::{
                Node, TransportSocket, config_source::ConfigSourceSpecifier, transport_socket::ConfigType,
            },
        },
        extensions::transport_sockets::tls::v3::{
            CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret as SecretMessage,
            UpstreamTlsContext, common_tls_context::ValidationContextType, secret,
        },
    },
    pack, unpack,
};

use super::{
    BootstrapError, Static,
    files::{self, FileSecret, From},
};
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
    pub(super) files: Vec<FileSecret>,
    pub(super) ignored: Vec<String>,
}

/// Decodes the static part, and the secrets in files that it refers to.
pub(super) fn decode(mut statics: StaticResources) -> Result<Resources, BootstrapError> {
    let mut context = Context::new(Origin::Bootstrap);
    let Collected { mut files, secrets } = collect(&mut statics)?;
    let mut secrets = [statics.secrets, secrets].concat();
    files.retain(|file| !secrets.iter().any(|secret| secret.name == file.name));
    for file in &files {
        secrets.push(file.message()?);
    }
    let watched = secrets
        .iter()
        .filter(|secret| files::watched_directory(secret).is_some());
    let watched: Vec<_> = watched
        .filter(|secret| !files.iter().any(|file| file.name == secret.name))
        .map(|secret| FileSecret {
            name: secret.name.clone(),
            from: From::Bootstrap(Box::new(secret.clone())),
            watched: None,
        })
        .collect();
    files.extend(watched);
    let resources = Resources {
        listeners: each(statics.listeners, &mut context)?,
        clusters: each(statics.clusters, &mut context)?,
        secrets: each(secrets, &mut context)?,
        files,
        ignored: Vec::new(),
    };
    let unknown = context.unknown.into_iter();
    let unknown = unknown.map(|message| format!("{message}: a field that is not known"));
    let ignored = context.ignored.into_iter().map(str::to_owned);
    Ok(Resources {
        ignored: ignored.chain(unknown).collect(),
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

/// The transport sockets of listeners and clusters.
fn sockets(statics: &mut StaticResources) -> impl Iterator<Item = (String, &mut TransportSocket)> {
    let listeners = statics.listeners.iter_mut().flat_map(|listener| {
        let chains = listener
            .filter_chains
            .iter_mut()
            .chain(&mut listener.default_filter_chain);
        let name = format!("listener {}", listener.name);
        chains.enumerate().filter_map(move |(index, chain)| {
            let socket = chain.transport_socket.as_mut()?;
            Some((format!("{name} filter_chains[{index}]"), socket))
        })
    });
    let clusters = statics.clusters.iter_mut().filter_map(|cluster| {
        let name = format!("cluster {}", cluster.name);
        Some((name, cluster.transport_socket.as_mut()?))
    });
    listeners.chain(clusters)
}

/// Secrets that TLS contexts take from files; certificates that they hold in place become secrets.
fn collect(statics: &mut StaticResources) -> Result<Collected, BootstrapError> {
    let mut collected = Collected::default();
    for (place, socket) in sockets(statics) {
        let Some(ConfigType::TypedConfig(any)) = &mut socket.config_type else {
            continue;
        };
        let invalid = |error: UnpackError| BootstrapError::Invalid(format!("{place}: {error}"));
        if any.type_url == UpstreamTlsContext::type_url() {
            let mut tls: UpstreamTlsContext = unpack(any).map_err(invalid)?;
            collected.context(&place, tls.common_tls_context.as_mut())?;
            *any = pack(&tls);
        } else if any.type_url == DownstreamTlsContext::type_url() {
            let mut tls: DownstreamTlsContext = unpack(any).map_err(invalid)?;
            collected.context(&place, tls.common_tls_context.as_mut())?;
            *any = pack(&tls);
        }
    }
    Ok(collected)
}

/// What is found in TLS contexts.
#[derive(Default)]
struct Collected {
    files: Vec<FileSecret>,
    secrets: Vec<SecretMessage>,
}

impl Collected {
    fn context(&mut self, place: &str, common: Option<&mut CommonTlsContext>) -> Result<(), BootstrapError> {
        let Some(common) = common else {
            return Ok(());
        };
        for config in secret_configs(common) {
            let Some((from, watched)) = file_of(config) else {
                continue;
            };
            let name = config.name.clone();
            let known = self.files.iter().find(|known| known.name == name);
            match known.map(|known| &known.from) {
                None => self.files.push(FileSecret {
                    name,
                    from: From::Sds(from),
                    watched,
                }),
                Some(From::Sds(path)) if *path == from => {}
                Some(_) => {
                    return Err(BootstrapError::Invalid(format!(
                        "{place}: secret {name:?} comes from two files: rename one"
                    )));
                }
            }
        }
        // More than one stays in place, and is refused.
        if let ([_], []) = (
            common.tls_certificates.as_slice(),
            common.tls_certificate_sds_secret_configs.as_slice(),
        ) {
            let name = format!("{place} tls_certificates[0]");
            self.secrets.extend(
                common
                    .tls_certificates
                    .drain(..)
                    .map(|certificate| SecretMessage {
                        name: name.clone(),
                        r#type: Some(secret::Type::TlsCertificate(certificate)),
                    }),
            );
            common.tls_certificate_sds_secret_configs.push(SdsSecretConfig {
                name,
                sds_config: None,
            });
        }
        Ok(())
    }
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

/// The file, and the directory to watch for its replacement.
fn file_of(config: &SdsSecretConfig) -> Option<(PathBuf, Option<PathBuf>)> {
    match config.sds_config.as_ref()?.config_source_specifier.as_ref()? {
        ConfigSourceSpecifier::Path(path) => Some((path.into(), None)),
        ConfigSourceSpecifier::PathConfigSource(source) => {
            let watched = source.watched_directory.as_ref();
            Some((
                (&source.path).into(),
                watched.map(|watched| (&watched.path).into()),
            ))
        }
        _ => None,
    }
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
