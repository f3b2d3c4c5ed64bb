//! Clusters.

use std::{sync::Arc, time::Duration};

use weir_xds::{
    TypeUrl,
    envoy::{
        config::{
            cluster::v3::{
                CircuitBreakers, Cluster, LoadBalancingPolicy, OutlierDetection,
                cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy},
            },
            core::v3::{
                Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
                RoutingPriority,
            },
            endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
        },
        extensions::{
            load_balancing_policies::least_request::v3::LeastRequest,
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
            },
        },
    },
};

use super::{
    Context, DecodeError, Origin, endpoints,
    error::{At, each, refuse},
    field, message, tls,
};
use crate::model::{self, AppProtocol, Discovery, Limits};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_BASE_EJECTION: Duration = Duration::from_secs(30);
const DEFAULT_MAX_EJECTION: Duration = Duration::from_secs(300);

/// A cluster.
pub(super) fn cluster(cluster: Cluster, context: &mut Context) -> Result<model::Cluster, DecodeError> {
    if cluster.name.is_empty() {
        return Err(DecodeError::new("name must not be empty"));
    }
    refuse([
        ("filters", !cluster.filters.is_empty()),
        (
            "transport_socket_matches",
            !cluster.transport_socket_matches.is_empty(),
        ),
        (
            "transport_socket_matcher",
            !cluster.transport_socket_matcher.is_empty(),
        ),
        ("upstream_bind_config", !cluster.upstream_bind_config.is_empty()),
        ("lb_subset_config", !cluster.lb_subset_config.is_empty()),
        ("upstream_config", !cluster.upstream_config.is_empty()),
    ])?;
    ignore(&cluster, context);
    balancing(&cluster, context)?;
    let mut limits = limits(cluster.circuit_breakers.as_ref()).at("circuit_breakers")?;
    let (protocol, requests_per_connection) = protocol(&cluster, context)?;
    // Envoy's own default for both forms is "unlimited", also written as 0.
    limits.requests_per_connection = requests_per_connection
        .or(cluster.max_requests_per_connection)
        .filter(|requests| *requests > 0);
    let connect_timeout = field::timeout(cluster.connect_timeout).at("connect_timeout")?;
    Ok(model::Cluster {
        discovery: discovery(&cluster, context)?,
        connect_timeout: connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        tls: tls::upstream(cluster.transport_socket.as_ref(), context).at("transport_socket")?,
        protocol,
        limits,
        outlier_detection: cluster
            .outlier_detection
            .as_ref()
            .map(|detection| outlier_detection(detection, context))
            .transpose()
            .at("outlier_detection")?,
        name: cluster.name,
    })
}

fn ignore(cluster: &Cluster, context: &mut Context) {
    for (setting, set) in [
        ("Cluster.health_checks", !cluster.health_checks.is_empty()),
        (
            "Cluster.per_connection_buffer_limit_bytes",
            cluster.per_connection_buffer_limit_bytes.is_some(),
        ),
        ("Cluster.dns_refresh_rate", cluster.dns_refresh_rate.is_some()),
        ("Cluster.respect_dns_ttl", cluster.respect_dns_ttl),
        ("Cluster.dns_lookup_family", cluster.dns_lookup_family != 0),
        (
            "Cluster.ring_hash_lb_config",
            matches!(cluster.lb_config, Some(LbConfig::RingHashLbConfig(_))),
        ),
        ("Cluster.common_lb_config", cluster.common_lb_config.is_some()),
        ("Cluster.alt_stat_name", !cluster.alt_stat_name.is_empty()),
        // A bootstrap says with it how the control plane's connections are kept alive.
        (
            "Cluster.upstream_connection_options",
            context.origin == Origin::Stream && cluster.upstream_connection_options.is_some(),
        ),
    ] {
        context.ignore(setting, set);
    }
}

fn discovery(cluster: &Cluster, context: &mut Context) -> Result<Discovery, DecodeError> {
    let kind = match cluster.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(kind).map_err(|_| DecodeError::unsupported(&format!("type {kind}")))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => return Err(DecodeError::unsupported("cluster_type")),
    };
    Ok(match kind {
        DiscoveryType::Static => {
            let mut assignment = assignment(cluster)?.clone();
            assignment.cluster_name.clone_from(&cluster.name);
            Discovery::Static(Arc::new(
                endpoints::endpoints(assignment, context).at("load_assignment")?,
            ))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            dns(assignment(cluster)?, cluster, context).at("load_assignment")?
        }
        DiscoveryType::Eds => {
            let source = cluster
                .eds_cluster_config
                .as_ref()
                .and_then(|eds| eds.eds_config.as_ref());
            field::over_ads(source).at("eds_cluster_config.eds_config")?;
            let name = cluster
                .eds_cluster_config
                .as_ref()
                .map(|eds| eds.service_name.as_str())
                .filter(|name| !name.is_empty());
            Discovery::Eds(name.unwrap_or(&cluster.name).to_owned())
        }
        DiscoveryType::OriginalDst => {
            if let Some(LbConfig::OriginalDstLbConfig(config)) = &cluster.lb_config {
                refuse([
                    ("original_dst_lb_config.use_http_header", config.use_http_header),
                    (
                        "original_dst_lb_config.upstream_port_override",
                        config.upstream_port_override.is_some(),
                    ),
                    (
                        "original_dst_lb_config.metadata_key",
                        !config.metadata_key.is_empty(),
                    ),
                ])?;
            }
            Discovery::OriginalDst
        }
    })
}

fn assignment(cluster: &Cluster) -> Result<&ClusterLoadAssignment, DecodeError> {
    cluster.load_assignment.as_ref().ok_or_else(|| {
        DecodeError::new("load_assignment is missing: this type of cluster lists its endpoints there")
    })
}

/// Names to resolve; when each is an address already there is nothing to resolve.
fn dns(
    assignment: &ClusterLoadAssignment,
    cluster: &Cluster,
    context: &mut Context,
) -> Result<Discovery, DecodeError> {
    let hosts = each("endpoints", &assignment.endpoints, |locality| {
        each("lb_endpoints", &locality.lb_endpoints, |lb| {
            let Some(HostIdentifier::Endpoint(endpoint)) = &lb.host_identifier else {
                return Err(DecodeError::new("endpoint is missing"));
            };
            let address = endpoint
                .address
                .as_ref()
                .ok_or_else(|| DecodeError::new("address is missing"))?;
            let (host, port) = field::host_port(address).at("endpoint.address")?;
            if host.is_empty() {
                return Err(DecodeError::new("endpoint.address has no host"));
            }
            Ok((host.to_owned(), port))
        })
    })?;
    let hosts: Vec<_> = hosts.into_iter().flatten().collect();
    if hosts.is_empty() {
        return Err(DecodeError::new("there is no name to resolve"));
    }
    if hosts
        .iter()
        .all(|(host, _)| host.parse::<std::net::IpAddr>().is_ok())
    {
        let mut assignment = assignment.clone();
        assignment.cluster_name.clone_from(&cluster.name);
        return Ok(Discovery::Static(Arc::new(endpoints::endpoints(
            assignment, context,
        )?)));
    }
    Ok(Discovery::Dns(hosts))
}

fn balancing(cluster: &Cluster, context: &mut Context) -> Result<(), DecodeError> {
    match LbPolicy::try_from(cluster.lb_policy) {
        Ok(LbPolicy::RingHash | LbPolicy::Maglev) => {
            context.ignore(
                "Cluster.lb_policy RING_HASH and MAGLEV (least request is used)",
                true,
            );
        }
        Ok(_) => {}
        Err(_) => return Err(DecodeError::unsupported("this lb_policy")),
    }
    match &cluster.load_balancing_policy {
        Some(policy) => known_policy(policy).at("load_balancing_policy"),
        None => Ok(()),
    }
}

fn known_policy(policy: &LoadBalancingPolicy) -> Result<(), DecodeError> {
    let least_request = LeastRequest::type_url();
    let mut types = policy
        .policies
        .iter()
        .filter_map(|policy| policy.typed_extension_config.as_ref()?.typed_config.as_ref());
    if types.any(|any| any.type_url == least_request) {
        return Ok(());
    }
    Err(DecodeError::new(
        "none of the policies is known here; least_request.v3.LeastRequest is",
    ))
}

fn limits(breakers: Option<&CircuitBreakers>) -> Result<Limits, DecodeError> {
    let default = breakers
        .iter()
        .flat_map(|breakers| &breakers.thresholds)
        .find(|thresholds| thresholds.priority() == RoutingPriority::Default);
    match default {
        Some(thresholds) => {
            refuse([
                ("retry_budget", thresholds.retry_budget.is_some()),
                ("max_connection_pools", thresholds.max_connection_pools.is_some()),
            ])?;
            Ok(Limits {
                connections: thresholds.max_connections,
                pending_requests: thresholds.max_pending_requests,
                requests: thresholds.max_requests,
                retries: thresholds.max_retries,
                requests_per_connection: None,
            })
        }
        None => Ok(Limits::default()),
    }
}

fn protocol(cluster: &Cluster, context: &mut Context) -> Result<(AppProtocol, Option<u32>), DecodeError> {
    let Some(any) = cluster.typed_extension_protocol_options.get(HTTP_OPTIONS) else {
        let http2 = cluster.http2_protocol_options.is_some();
        return Ok((
            if http2 {
                AppProtocol::Http2
            } else {
                AppProtocol::default()
            },
            None,
        ));
    };
    let options: HttpProtocolOptions = message(any, context).at("typed_extension_protocol_options")?;
    refuse([("http_filters", !options.http_filters.is_empty())])?;
    field::common_http(options.common_http_protocol_options.as_ref()).at("common_http_protocol_options")?;
    ignore_http(&options, context);
    let requests = options
        .common_http_protocol_options
        .and_then(|common| common.max_requests_per_connection);
    let protocol = match options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) => AppProtocol::Http1,
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => AppProtocol::Http2,
            None => return Err(DecodeError::new("explicit_http_config names no protocol")),
        },
        Some(
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(_) | UpstreamProtocolOptions::AutoConfig(_),
        )
        | None => AppProtocol::Downstream,
    };
    Ok((protocol, requests))
}

fn ignore_http(options: &HttpProtocolOptions, context: &mut Context) {
    let common = options.common_http_protocol_options.unwrap_or_default();
    context.ignore(
        "HttpProtocolOptions.common_http_protocol_options (but max_requests_per_connection)",
        common
            != CommonOptions {
                max_requests_per_connection: common.max_requests_per_connection,
                ..CommonOptions::default()
            },
    );
    let (http1, http2) = match options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(http1)) => (Some(http1), None),
            Some(ProtocolConfig::Http2ProtocolOptions(http2)) => (None, Some(http2)),
            None => (None, None),
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)) => {
            (both.http_protocol_options, both.http2_protocol_options)
        }
        Some(UpstreamProtocolOptions::AutoConfig(both)) => {
            (both.http_protocol_options, both.http2_protocol_options)
        }
        None => (None, None),
    };
    context.ignore(
        "Http1ProtocolOptions",
        http1.is_some_and(|options| options != Http1ProtocolOptions::default()),
    );
    context.ignore(
        "Http2ProtocolOptions",
        http2.is_some_and(|options| options != Http2ProtocolOptions::default()),
    );
}

fn outlier_detection(
    detection: &OutlierDetection,
    context: &mut Context,
) -> Result<model::OutlierDetection, DecodeError> {
    context.ignore("OutlierDetection.interval", detection.interval.is_some());
    let enforced = detection.enforcing_consecutive_5xx.unwrap_or(100);
    refuse([
        (
            "enforcing_consecutive_gateway_failure",
            detection
                .enforcing_consecutive_gateway_failure
                .is_some_and(|percent| percent > 0),
        ),
        (
            "enforcing_consecutive_5xx between 0 and 100",
            !matches!(enforced, 0 | 100),
        ),
        (
            "split_external_local_origin_errors",
            detection.split_external_local_origin_errors,
        ),
    ])?;
    let base = field::optional_duration(detection.base_ejection_time).at("base_ejection_time")?;
    let base = base.unwrap_or(DEFAULT_BASE_EJECTION);
    let max = field::optional_duration(detection.max_ejection_time).at("max_ejection_time")?;
    Ok(model::OutlierDetection {
        consecutive_5xx: if enforced == 0 {
            0
        } else {
            detection.consecutive_5xx.unwrap_or(5)
        },
        base_ejection_time: base,
        max_ejection_time: max.unwrap_or(DEFAULT_MAX_EJECTION).max(base),
        max_ejection_percent: detection.max_ejection_percent.unwrap_or(10),
    })
}
