//! What is done with a request that a route takes.

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use weir_xds::envoy::{
    config::route::v3::{
        self as proto,
        redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
        route::Action,
        route_action::{ClusterSpecifier, HostRewriteSpecifier},
    },
    r#type::matcher::v3::RegexMatchAndSubstitute,
};

use super::{
    Context, DecodeError,
    error::{At, each, refuse},
    field,
};
use crate::model::{Destination, PathRewrite, Regex, Retry, RetryOn, RouteAction, WeightedCluster};

/// Envoy's limit for a route that gives none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
const DEFAULT_BACK_OFF: Duration = Duration::from_millis(25);

/// The action of a route; it retries as its host does if it does not say how.
pub(super) fn action(
    route: &proto::Route,
    host_retry: Option<&proto::RetryPolicy>,
    context: &mut Context,
) -> Result<RouteAction, DecodeError> {
    Ok(match &route.action {
        Some(Action::Route(action)) => {
            RouteAction::Forward(destination(action, host_retry, context).at("route")?)
        }
        Some(Action::Redirect(redirect)) => self::redirect(redirect).at("redirect")?,
        Some(Action::DirectResponse(response)) => respond(response, context).at("direct_response")?,
        Some(Action::NonForwardingAction(_)) => {
            return Err(DecodeError::unsupported("non_forwarding_action"));
        }
        None => return Err(DecodeError::new("a route needs an action that this proxy knows")),
    })
}

fn destination(
    action: &proto::RouteAction,
    host_retry: Option<&proto::RetryPolicy>,
    context: &mut Context,
) -> Result<Destination, DecodeError> {
    refuse([
        ("metadata_match", !action.metadata_match.is_empty()),
        ("path_rewrite_policy", !action.path_rewrite_policy.is_empty()),
        (
            "connect_config",
            action
                .upgrade_configs
                .iter()
                .any(|upgrade| !upgrade.connect_config.is_empty()),
        ),
    ])?;
    context.ignore("RouteAction.rate_limits", !action.rate_limits.is_empty());
    context.ignore("RouteAction.hash_policy", !action.hash_policy.is_empty());
    context.ignore(
        "RouteAction.request_mirror_policies",
        !action.request_mirror_policies.is_empty(),
    );
    context.ignore(
        "RouteAction.max_stream_duration",
        action.max_stream_duration.is_some(),
    );
    context.ignore(
        "RouteAction.cluster_not_found_response_code",
        action.cluster_not_found_response_code != 0,
    );
    let host_rewrite = match &action.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(HeaderValue::from_str(host).map_err(|_| {
                DecodeError::new(format!("{host:?} is not a host")).at("host_rewrite_literal")
            })?)
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(true)) => {
            return Err(DecodeError::unsupported("auto_host_rewrite"));
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(_) | HostRewriteSpecifier::HostRewritePathRegex(_)) => {
            return Err(DecodeError::unsupported("a host out of the request"));
        }
        _ => None,
    };
    let retry = action.retry_policy.as_ref().or(host_retry);
    let timeout = match action.timeout {
        Some(_) => field::timeout(action.timeout).at("timeout")?,
        None => Some(DEFAULT_TIMEOUT),
    };
    Ok(Destination {
        clusters: clusters(action, context)?,
        timeout,
        idle_timeout: field::timeout(action.idle_timeout).at("idle_timeout")?,
        retry: retry.map(self::retry).transpose().at("retry_policy")?.flatten(),
        rewrite: rewrite(action)?,
        host_rewrite,
        upgrades: action
            .upgrade_configs
            .iter()
            .filter(|upgrade| upgrade.enabled.unwrap_or(true))
            .map(|upgrade| upgrade.upgrade_type.to_ascii_lowercase())
            .collect(),
    })
}

fn clusters(action: &proto::RouteAction, context: &mut Context) -> Result<Vec<WeightedCluster>, DecodeError> {
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) if !cluster.is_empty() => Ok(vec![WeightedCluster {
            cluster: cluster.clone(),
            weight: 1,
        }]),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_clusters(weighted, context).at("weighted_clusters")
        }
        Some(ClusterSpecifier::ClusterHeader(_)) => Err(DecodeError::unsupported("cluster_header")),
        Some(
            ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_),
        ) => Err(DecodeError::unsupported("a cluster specifier plugin")),
        Some(ClusterSpecifier::Cluster(_)) | None => Err(DecodeError::new("no cluster is named")),
    }
}

fn weighted_clusters(
    weighted: &proto::WeightedCluster,
    context: &mut Context,
) -> Result<Vec<WeightedCluster>, DecodeError> {
    let clusters = each("clusters", &weighted.clusters, |cluster| {
        if cluster.name.is_empty() {
            return Err(DecodeError::new("name must not be empty"));
        }
        refuse([
            (
                "typed_per_filter_config",
                !cluster.typed_per_filter_config.is_empty(),
            ),
            ("metadata_match", !cluster.metadata_match.is_empty()),
            ("host_rewrite_literal", !cluster.host_rewrite_literal.is_empty()),
            ("cluster_header", !cluster.cluster_header.is_empty()),
        ])?;
        let headers = !cluster.request_headers_to_add.is_empty()
            || !cluster.request_headers_to_remove.is_empty()
            || !cluster.response_headers_to_add.is_empty()
            || !cluster.response_headers_to_remove.is_empty();
        context.ignore("WeightedCluster.clusters header changes", headers);
        Ok(WeightedCluster {
            cluster: cluster.name.clone(),
            weight: cluster.weight.unwrap_or(0),
        })
    })?;
    let sum: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    if sum == 0 || sum > u64::from(u32::MAX) {
        return Err(DecodeError::new(
            "the sum of weights must be between 1 and 4294967295",
        ));
    }
    Ok(clusters)
}

fn rewrite(action: &proto::RouteAction) -> Result<Option<PathRewrite>, DecodeError> {
    match (&action.regex_rewrite, action.prefix_rewrite.as_str()) {
        (None, "") => Ok(None),
        (None, prefix) => Ok(Some(PathRewrite::Prefix(prefix.to_owned()))),
        (Some(regex), "") => regex_rewrite(regex).at("regex_rewrite").map(Some),
        (Some(_), _) => Err(DecodeError::new(
            "prefix_rewrite and regex_rewrite exclude each other",
        )),
    }
}

fn regex_rewrite(rewrite: &RegexMatchAndSubstitute) -> Result<PathRewrite, DecodeError> {
    let pattern = rewrite.pattern.as_ref().map_or("", |pattern| &pattern.regex);
    if pattern.is_empty() {
        return Err(DecodeError::new("pattern.regex must not be empty"));
    }
    Ok(PathRewrite::Regex {
        pattern: Regex::search(pattern)
            .map_err(|error| DecodeError::new(format!("{pattern:?} is not a usable expression: {error}")))?,
        substitution: rewrite.substitution.clone(),
    })
}

fn retry(policy: &proto::RetryPolicy) -> Result<Option<Retry>, DecodeError> {
    refuse([("per_try_idle_timeout", policy.per_try_idle_timeout.is_some())])?;
    let names = policy.retry_on.split(',').map(str::trim);
    let on: Vec<_> = names
        .filter(|on| !on.is_empty())
        .map(retry_on)
        .collect::<Result<_, _>>()
        .at("retry_on")?;
    if on.is_empty() {
        return Ok(None);
    }
    let status_codes = each("retriable_status_codes", &policy.retriable_status_codes, |code| {
        u16::try_from(*code).map_err(|_| DecodeError::new(format!("{code} is not a status code")))
    })?;
    let back_off = policy.retry_back_off.unwrap_or_default();
    let base = field::timeout(back_off.base_interval).at("retry_back_off.base_interval")?;
    let base = base.unwrap_or(DEFAULT_BACK_OFF);
    let max = field::timeout(back_off.max_interval).at("retry_back_off.max_interval")?;
    Ok(Some(Retry {
        on,
        num_retries: policy.num_retries.unwrap_or(1),
        per_try_timeout: field::timeout(policy.per_try_timeout).at("per_try_timeout")?,
        status_codes,
        base_interval: base,
        max_interval: max.unwrap_or(base.saturating_mul(10)).max(base),
    }))
}

fn retry_on(name: &str) -> Result<RetryOn, DecodeError> {
    Ok(match name {
        "5xx" => RetryOn::ServerError,
        "gateway-error" => RetryOn::GatewayError,
        "reset" => RetryOn::Reset,
        "connect-failure" => RetryOn::ConnectFailure,
        "refused-stream" => RetryOn::RefusedStream,
        "retriable-4xx" => RetryOn::Conflict,
        "retriable-status-codes" => RetryOn::StatusCodes,
        "cancelled" => RetryOn::Grpc(1),
        "deadline-exceeded" => RetryOn::Grpc(4),
        "resource-exhausted" => RetryOn::Grpc(8),
        "internal" => RetryOn::Grpc(13),
        "unavailable" => RetryOn::Grpc(14),
        other => {
            return Err(DecodeError::new(format!(
                "condition {other:?} is not known here; 5xx, gateway-error, reset, connect-failure, refused-stream, \
                 retriable-4xx, retriable-status-codes and those of gRPC are"
            )));
        }
    })
}

fn redirect(redirect: &proto::RedirectAction) -> Result<RouteAction, DecodeError> {
    refuse([("strip_query", redirect.strip_query)])?;
    let path = match &redirect.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(path.clone()),
        Some(PathRewriteSpecifier::PrefixRewrite(_)) => {
            return Err(DecodeError::unsupported("prefix_rewrite"));
        }
        Some(PathRewriteSpecifier::RegexRewrite(_)) => return Err(DecodeError::unsupported("regex_rewrite")),
        None => None,
    };
    let scheme = match &redirect.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
        _ => None,
    };
    let status = match RedirectResponseCode::try_from(redirect.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return Err(DecodeError::unsupported("this response_code")),
    };
    let port = field::port(redirect.port_redirect).at("port_redirect")?;
    Ok(RouteAction::Redirect {
        status,
        scheme,
        host: Some(redirect.host_redirect.clone()).filter(|host| !host.is_empty()),
        port: (port != 0).then_some(port),
        path,
    })
}

fn respond(response: &proto::DirectResponseAction, context: &Context) -> Result<RouteAction, DecodeError> {
    let status = u16::try_from(response.status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| DecodeError::new(format!("status {} cannot be answered", response.status)))?;
    let body = match &response.body {
        Some(source) => field::text(source, context).at("body")?,
        None => String::new(),
    };
    Ok(RouteAction::Respond {
        status,
        body: body.into(),
    })
}
