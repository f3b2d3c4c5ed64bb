//! Endpoints.

use std::sync::Arc;

use prost_types::{Struct, value::Kind};
use weir_xds::envoy::config::{
    core::v3::{HealthStatus, Metadata},
    endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier},
};

use super::{
    Context, DecodeError,
    error::{At, each, refuse},
    field,
};
use crate::model::{Endpoint, Endpoints, Workload};

/// The endpoints that may be used: the healthy ones of the first priority that has any.
pub(super) fn endpoints(
    assignment: ClusterLoadAssignment,
    context: &mut Context,
) -> Result<Endpoints, DecodeError> {
    if assignment.cluster_name.is_empty() {
        return Err(DecodeError::new("cluster_name must not be empty"));
    }
    if let Some(policy) = &assignment.policy {
        context.ignore(
            "ClusterLoadAssignment.policy.drop_overloads",
            !policy.drop_overloads.is_empty(),
        );
    }
    let mut by_priority: Vec<(u32, Endpoint)> = Vec::new();
    let localities = each("endpoints", &assignment.endpoints, |locality| {
        refuse([
            (
                "load_balancer_endpoints",
                !locality.load_balancer_endpoints.is_empty(),
            ),
            (
                "leds_cluster_locality_config",
                !locality.leds_cluster_locality_config.is_empty(),
            ),
        ])?;
        context.ignore(
            "LocalityLbEndpoints.load_balancing_weight",
            locality.load_balancing_weight.is_some(),
        );
        let endpoints = each("lb_endpoints", &locality.lb_endpoints, |lb| {
            let endpoint = endpoint(lb)?;
            Ok(is_usable(lb.health_status()).then_some(endpoint))
        })?;
        Ok((locality.priority, endpoints))
    })?;
    for (priority, endpoints) in localities {
        by_priority.extend(
            endpoints
                .into_iter()
                .flatten()
                .map(|endpoint| (priority, endpoint)),
        );
    }
    let first = by_priority.iter().map(|(priority, _)| *priority).min();
    by_priority.retain(|(priority, _)| Some(*priority) == first);
    Ok(Endpoints {
        endpoints: by_priority.into_iter().map(|(_, endpoint)| endpoint).collect(),
    })
}

fn is_usable(status: HealthStatus) -> bool {
    matches!(
        status,
        HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded
    )
}

fn endpoint(lb: &LbEndpoint) -> Result<Endpoint, DecodeError> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &lb.host_identifier else {
        return Err(DecodeError::new("endpoint is missing"));
    };
    let address = endpoint
        .address
        .as_ref()
        .ok_or_else(|| DecodeError::new("address is missing"))
        .and_then(field::address)
        .at("endpoint")?;
    let weir = lb.metadata.as_ref().and_then(weir_metadata);
    let string = |key: &str| weir.and_then(|weir| self::string(weir, key)).map(str::to_owned);
    let unknown = Workload::default();
    Ok(Endpoint {
        address,
        weight: lb.load_balancing_weight.unwrap_or(1).max(1),
        principal: string("principal").map(Arc::from),
        workload: Arc::new(Workload {
            namespace: string("namespace").unwrap_or(unknown.namespace),
            kind: string("kind").unwrap_or(unknown.kind),
            name: string("workload").unwrap_or(unknown.name),
            pod: string("pod").unwrap_or(unknown.pod),
        }),
    })
}

fn weir_metadata(metadata: &Metadata) -> Option<&Struct> {
    metadata.filter_metadata.get("weir")
}

fn string<'a>(fields: &'a Struct, key: &str) -> Option<&'a str> {
    match &fields.fields.get(key)?.kind {
        Some(Kind::StringValue(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}
