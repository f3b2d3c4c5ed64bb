//! Route tables.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, StatusCode};
use prost_types::Any;
use weir_xds::{
    TypeUrl,
    envoy::{
        config::route::v3::{
            self as proto, RouteConfiguration,
            query_parameter_matcher::QueryParameterMatchSpecifier,
            redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
            route::Action,
            route_action::{ClusterSpecifier, HostRewriteSpecifier},
            route_match::PathSpecifier,
        },
        extensions::filters::http::rbac::v3::RbacPerRoute,
        r#type::matcher::v3::RegexMatchAndSubstitute,
    },
};

use super::{
    Context, DecodeError,
    error::{At, each, refuse},
    field, http as filters, matcher, message,
};
use crate::model::{
    Destination, PathMatch, PathRewrite, QueryMatcher, Rbac, Regex, Retry, RetryOn, Route, RouteAction,
    RouteMatch, RouteTable, VirtualHost, WeightedCluster,
};

/// Envoy's limit for a route that gives none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
const DEFAULT_BACK_OFF: Duration = Duration::from_millis(25);

/// A route table.
pub(super) fn table(config: RouteConfiguration, context: &mut Context) -> Result<RouteTable, DecodeError> {
    refuse([
        ("vhds", !config.vhds.is_empty()),
        (
            "ignore_port_in_host_matching",
            config.ignore_port_in_host_matching,
        ),
        (
            "ignore_path_parameters_in_path_matching",
            config.ignore_path_parameters_in_path_matching,
        ),
        ("internal_only_headers", !config.internal_only_headers.is_empty()),
        (
            "typed_per_filter_config",
            !config.typed_per_filter_config.is_empty(),
        ),
    ])?;
    context.ignore(
        "RouteConfiguration.most_specific_header_mutations_wins",
        config.most_specific_header_mutations_wins,
    );
    let mut seen = HashSet::new();
    let virtual_hosts = each("virtual_hosts", &config.virtual_hosts, |host| {
        let host = virtual_host(host, context)?;
        for domain in &host.domains {
            if !seen.insert(domain.clone()) {
                return Err(DecodeError::new(format!("domain {domain:?} is there twice")));
            }
        }
        Ok(host)
    })?;
    Ok(RouteTable {
        virtual_hosts,
        headers: field::headers(
            &config.request_headers_to_add,
            &config.request_headers_to_remove,
            &config.response_headers_to_add,
            &config.response_headers_to_remove,
        )?,
        name: config.name,
    })
}

fn virtual_host(host: &proto::VirtualHost, context: &mut Context) -> Result<VirtualHost, DecodeError> {
    refuse([
        ("require_tls", host.require_tls != 0),
        ("matcher", !host.matcher.is_empty()),
    ])?;
    context.ignore("VirtualHost.rate_limits", !host.rate_limits.is_empty());
    context.ignore(
        "VirtualHost.include_request_attempt_count",
        host.include_request_attempt_count,
    );
    if host.domains.is_empty() {
        return Err(DecodeError::new("domains must not be empty"));
    }
    let host_rbac = rbac(&host.typed_per_filter_config, context)?;
    let routes = each("routes", &host.routes, |route| {
        let mut route = self::route(route, host, context)?;
        if route.rbac.is_none() {
            route.rbac.clone_from(&host_rbac);
        }
        Ok(Arc::new(route))
    })?;
    Ok(VirtualHost {
        name: host.name.clone(),
        domains: each("domains", &host.domains, |domain| self::domain(domain))?,
        routes,
        headers: field::headers(
            &host.request_headers_to_add,
            &host.request_headers_to_remove,
            &host.response_headers_to_add,
            &host.response_headers_to_remove,
        )?,
    })
}

fn domain(domain: &str) -> Result<String, DecodeError> {
    let stars = domain.matches('*').count();
    let at_an_end = domain.starts_with('*') || domain.ends_with('*');
    if domain.is_empty() || stars > 1 || (stars == 1 && !at_an_end) {
        return Err(DecodeError::new(format!(
            "{domain:?} is neither a name, \"*.suffix\", \"prefix.*\" nor \"*\""
        )));
    }
    Ok(domain.to_ascii_lowercase())
}

fn route(
    route: &proto::Route,
    host: &proto::VirtualHost,
    context: &mut Context,
) -> Result<Route, DecodeError> {
    let matches = route
        .r#match
        .as_ref()
        .ok_or_else(|| DecodeError::new("missing"))
        .and_then(route_match)
        .at("match")?;
    let action = match &route.action {
        Some(Action::Route(action)) => {
            RouteAction::Forward(destination(action, host.retry_policy.as_ref(), context).at("route")?)
        }
        Some(Action::Redirect(redirect)) => self::redirect(redirect).at("redirect")?,
        Some(Action::DirectResponse(response)) => respond(response, context).at("direct_response")?,
        Some(Action::NonForwardingAction(_)) => {
            return Err(DecodeError::unsupported("non_forwarding_action"));
        }
        None => return Err(DecodeError::new("a route needs an action that this proxy knows")),
    };
    Ok(Route {
        name: route.name.clone(),
        matches,
        action,
        rbac: rbac(&route.typed_per_filter_config, context)?,
        headers: field::headers(
            &route.request_headers_to_add,
            &route.request_headers_to_remove,
            &route.response_headers_to_add,
            &route.response_headers_to_remove,
        )?,
    })
}

/// The `RBACPerRoute` in a per-filter map; other filters' settings are refused unless they may be left out.
fn rbac(
    per_filter: &BTreeMap<String, Any>,
    context: &mut Context,
) -> Result<Option<Option<Arc<Rbac>>>, DecodeError> {
    let mut found = None;
    for (name, any) in per_filter {
        let place = format!("typed_per_filter_config[{name:?}]");
        let wrapped: Option<proto::FilterConfig> = (any.type_url == proto::FilterConfig::type_url())
            .then(|| message(any, context))
            .transpose()
            .at(&place)?;
        let (inner, optional) = match &wrapped {
            Some(filter) if filter.disabled => {
                return Err(DecodeError::unsupported("disabled")).at(&place);
            }
            Some(filter) => (filter.config.as_ref(), filter.is_optional),
            None => (Some(any), false),
        };
        match inner {
            Some(inner) if inner.type_url == RbacPerRoute::type_url() => {
                let per_route: RbacPerRoute = message(inner, context).at(&place)?;
                found = Some(match per_route.rbac {
                    Some(rbac) => filters::rbac(&rbac, context).at(&place)?,
                    None => None,
                });
            }
            _ if optional => context.ignore("optional typed_per_filter_config", true),
            Some(inner) => return Err(DecodeError::unsupported(&inner.type_url)).at(&place),
            None => return Err(DecodeError::new("config is missing")).at(&place),
        }
    }
    Ok(found)
}

fn route_match(matches: &proto::RouteMatch) -> Result<RouteMatch, DecodeError> {
    refuse([
        ("tls_context", !matches.tls_context.is_empty()),
        ("dynamic_metadata", !matches.dynamic_metadata.is_empty()),
        ("filter_state", !matches.filter_state.is_empty()),
        (
            "runtime_fraction below 100 %",
            !field::is_whole(matches.runtime_fraction.as_ref()),
        ),
    ])?;
    let ignore_case = matches.case_sensitive == Some(false);
    let path = match &matches.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.clone(), ignore_case),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.clone(), ignore_case),
        Some(PathSpecifier::PathSeparatedPrefix(_)) if ignore_case => {
            return Err(DecodeError::unsupported(
                "case_sensitive: false with path_separated_prefix",
            ));
        }
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => PathMatch::Segment(prefix.clone()),
        Some(PathSpecifier::SafeRegex(regex)) => PathMatch::Regex(matcher::regex(regex).at("safe_regex")?),
        Some(PathSpecifier::ConnectMatcher(_)) => return Err(DecodeError::unsupported("connect_matcher")),
        Some(PathSpecifier::PathMatchPolicy(_)) => return Err(DecodeError::unsupported("path_match_policy")),
        None => {
            return Err(DecodeError::new(
                "a match needs a path specifier that this proxy knows",
            ));
        }
    };
    Ok(RouteMatch {
        path,
        headers: each("headers", &matches.headers, matcher::header)?,
        query: each("query_parameters", &matches.query_parameters, query)?,
        grpc: matches.grpc.is_some(),
    })
}

fn query(parameter: &proto::QueryParameterMatcher) -> Result<QueryMatcher, DecodeError> {
    let value = match &parameter.query_parameter_match_specifier {
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => Some(matcher::string(matcher)?),
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err(DecodeError::unsupported("present_match: false"));
        }
        Some(QueryParameterMatchSpecifier::PresentMatch(true)) | None => None,
    };
    Ok(QueryMatcher {
        name: parameter.name.clone(),
        value,
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
