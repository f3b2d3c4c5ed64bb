//! Network filters: those that decide, and the one that ends the chain.

use std::sync::Arc;

use prost_types::Any;
use weir_xds::{
    TypeUrl,
    envoy::{
        config::listener::v3::{Filter, filter::ConfigType},
        extensions::filters::network::{
            http_connection_manager::v3::HttpConnectionManager,
            local_ratelimit::v3::LocalRateLimit,
            rbac::v3::Rbac,
            tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
        },
    },
};

use super::{
    Context, DecodeError,
    error::{At, each, refuse},
    field, http, message, rbac,
};
use crate::bucket;
use crate::model::{Network, Tcp, Terminal, WeightedCluster};

/// The filters of a chain.
pub(super) fn filters(
    filters: &[Filter],
    context: &mut Context,
) -> Result<(Vec<Network>, Terminal), DecodeError> {
    let Some((last, before)) = filters.split_last() else {
        return Err(DecodeError::new(
            "filters must not be empty: the last one is to be an HttpConnectionManager or a TcpProxy",
        ));
    };
    let deciding = each("filters", before, |filter| deciding(typed(filter)?, context))?;
    let terminal = typed(last)
        .and_then(|any| terminal(any, context))
        .at_index("filters", before.len())?;
    Ok((deciding, terminal))
}

fn typed(filter: &Filter) -> Result<&Any, DecodeError> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => Ok(any),
        Some(ConfigType::ConfigDiscovery(_)) => Err(DecodeError::unsupported("config_discovery")),
        None => Err(DecodeError::new("typed_config is missing")),
    }
}

fn deciding(any: &Any, context: &mut Context) -> Result<Network, DecodeError> {
    if any.type_url == Rbac::type_url() {
        let filter: Rbac = message(any, context)?;
        refuse([("matcher", !filter.matcher.is_empty())])?;
        context.ignore("network RBAC shadow_rules", filter.shadow_rules.is_some());
        let rules = filter.rules.as_ref().map(rbac::rules).transpose().at("rules")?;
        Ok(Network::Rbac(rules.map(Arc::new)))
    } else if any.type_url == LocalRateLimit::type_url() {
        local_rate_limit(&message(any, context)?)
    } else if any.type_url == HttpConnectionManager::type_url() || any.type_url == TcpProxy::type_url() {
        Err(DecodeError::new(
            "a filter that ends the chain must be the last one",
        ))
    } else {
        Err(unknown(any))
    }
}

fn terminal(any: &Any, context: &mut Context) -> Result<Terminal, DecodeError> {
    if any.type_url == HttpConnectionManager::type_url() {
        Ok(Terminal::Http(Arc::new(http::manager(
            message(any, context)?,
            context,
        )?)))
    } else if any.type_url == TcpProxy::type_url() {
        tcp(message(any, context)?, context).map(Terminal::Tcp)
    } else if any.type_url == Rbac::type_url() || any.type_url == LocalRateLimit::type_url() {
        Err(DecodeError::new(
            "the last filter must end the chain: an HttpConnectionManager or a TcpProxy",
        ))
    } else {
        Err(unknown(any))
    }
}

fn unknown(any: &Any) -> DecodeError {
    DecodeError::new(format!("network filter {:?} is not known here", any.type_url))
}

fn local_rate_limit(filter: &LocalRateLimit) -> Result<Network, DecodeError> {
    let bucket = filter
        .token_bucket
        .as_ref()
        .ok_or_else(|| DecodeError::new("token_bucket is missing"))?;
    let fill_interval = field::timeout(bucket.fill_interval)
        .at("token_bucket.fill_interval")?
        .ok_or_else(|| DecodeError::new("token_bucket.fill_interval must be above zero"))?;
    let tokens_per_fill = bucket.tokens_per_fill.unwrap_or(1);
    if bucket.max_tokens == 0 || tokens_per_fill == 0 {
        return Err(DecodeError::new(
            "token_bucket must hold and get at least one token",
        ));
    }
    Ok(Network::LocalRateLimit(bucket::Settings {
        max_tokens: bucket.max_tokens,
        tokens_per_fill,
        fill_interval,
    }))
}

fn tcp(proxy: TcpProxy, context: &mut Context) -> Result<Tcp, DecodeError> {
    refuse([
        ("metadata_match", !proxy.metadata_match.is_empty()),
        ("tunneling_config", !proxy.tunneling_config.is_empty()),
    ])?;
    context.ignore("TcpProxy.access_log", !proxy.access_log.is_empty());
    context.ignore(
        "TcpProxy.max_connect_attempts",
        proxy.max_connect_attempts.is_some(),
    );
    let clusters = match proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) => vec![WeightedCluster { cluster, weight: 1 }],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let elsewhere = weighted
                .clusters
                .iter()
                .any(|cluster| !cluster.metadata_match.is_empty());
            refuse([("weighted_clusters.metadata_match", elsewhere)])?;
            weighted
                .clusters
                .into_iter()
                .map(|cluster| WeightedCluster {
                    cluster: cluster.name,
                    weight: cluster.weight,
                })
                .collect()
        }
        None => return Err(DecodeError::new("no cluster is named")),
    };
    if clusters.iter().any(|cluster| cluster.cluster.is_empty()) {
        return Err(DecodeError::new("a cluster's name must not be empty"));
    }
    let sum: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    if sum == 0 || sum > u64::from(u32::MAX) {
        return Err(DecodeError::new(
            "the sum of weights must be between 1 and 4294967295",
        ));
    }
    Ok(Tcp {
        clusters,
        idle_timeout: field::timeout(proxy.idle_timeout).at("idle_timeout")?,
    })
}
