//! Route tables.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use prost_types::Any;
use weir_xds::{
    TypeUrl,
    envoy::{
        config::route::v3::{
            self as proto, RouteConfiguration, query_parameter_matcher::QueryParameterMatchSpecifier,
            route_match::PathSpecifier,
        },
        extensions::filters::http::rbac::v3::RbacPerRoute,
    },
};

use super::{
    Context, DecodeError, action,
    error::{At, each, refuse},
    field, http as filters, matcher, message,
};
use crate::model::{PathMatch, QueryMatcher, Rbac, Route, RouteMatch, RouteTable, VirtualHost};

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
    Ok(Route {
        name: route.name.clone(),
        matches,
        action: action::action(route, host.retry_policy.as_ref(), context)?,
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
