//! The HTTP connection manager and its filters.

use std::{sync::Arc, time::Duration};

use prost_types::Any;
use weir_xds::{
    TypeUrl,
    envoy::{
        config::{
            accesslog::v3::{AccessLog, access_log},
            core::v3::substitution_format_string,
        },
        extensions::{
            access_loggers::{
                file::v3::{FileAccessLog, file_access_log},
                stream::v3::{StdoutAccessLog, stdout_access_log},
            },
            filters::{
                http::{local_ratelimit::v3::LocalRateLimit, rbac::v3 as proto_rbac, router::v3::Router},
                network::http_connection_manager::v3::{
                    HttpConnectionManager, HttpFilter,
                    http_connection_manager::{CodecType, PathWithEscapedSlashesAction, RouteSpecifier},
                    http_filter::ConfigType,
                },
            },
        },
    },
};

use super::{
    Context, DecodeError,
    error::{At, each, refuse},
    field, message, rbac as rules, route,
};
use crate::{
    http::LOGGED,
    model::{Codec, Http, Rbac, RouteSource},
};

/// Envoy's limit where none is given.
const DEFAULT_STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The manager.
pub(super) fn manager(manager: HttpConnectionManager, context: &mut Context) -> Result<Http, DecodeError> {
    refuse([
        (
            "original_ip_detection_extensions",
            !manager.original_ip_detection_extensions.is_empty(),
        ),
        (
            "forward_client_cert_matcher",
            !manager.forward_client_cert_matcher.is_empty(),
        ),
        // Authorization and routes would see another path than the one that they were written for.
        ("normalize_path", manager.normalize_path == Some(true)),
        ("merge_slashes", manager.merge_slashes),
        (
            "path_with_escaped_slashes_action",
            !matches!(
                manager.path_with_escaped_slashes_action(),
                PathWithEscapedSlashesAction::ImplementationSpecificDefault
                    | PathWithEscapedSlashesAction::KeepUnchanged
            ),
        ),
        (
            "path_normalization_options",
            !manager.path_normalization_options.is_empty(),
        ),
        ("strip_matching_host_port", manager.strip_matching_host_port),
        (
            "early_header_mutation_extensions",
            !manager.early_header_mutation_extensions.is_empty(),
        ),
        (
            "upgrade_configs.filters",
            manager
                .upgrade_configs
                .iter()
                .any(|upgrade| !upgrade.filters.is_empty()),
        ),
    ])?;
    ignore(&manager, context);
    field::common_http(manager.common_http_protocol_options.as_ref()).at("common_http_protocol_options")?;
    let codec = match CodecType::try_from(manager.codec_type) {
        Ok(CodecType::Auto) => Codec::Auto,
        Ok(CodecType::Http1) => Codec::Http1,
        Ok(CodecType::Http2) => Codec::Http2,
        Ok(CodecType::Http3) | Err(_) => return Err(DecodeError::unsupported("this codec_type")),
    };
    let routes = match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) if rds.route_config_name.is_empty() => {
            return Err(DecodeError::new("rds.route_config_name must not be empty"));
        }
        Some(RouteSpecifier::Rds(rds)) => {
            field::over_ads(rds.config_source.as_ref()).at("rds.config_source")?;
            RouteSource::Rds(rds.route_config_name)
        }
        Some(RouteSpecifier::RouteConfig(config)) => {
            RouteSource::Inline(Arc::new(route::table(config, context).at("route_config")?))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => return Err(DecodeError::unsupported("scoped_routes")),
        None => return Err(DecodeError::new("neither rds nor route_config is given")),
    };
    let stream_idle_timeout = match manager.stream_idle_timeout {
        Some(_) => field::timeout(manager.stream_idle_timeout).at("stream_idle_timeout")?,
        None => Some(DEFAULT_STREAM_IDLE_TIMEOUT),
    };
    Ok(Http {
        codec,
        routes,
        rbac: filters(&manager.http_filters, context)?,
        upgrades: manager
            .upgrade_configs
            .iter()
            .filter(|upgrade| upgrade.enabled.unwrap_or(true))
            .map(|upgrade| upgrade.upgrade_type.to_ascii_lowercase())
            .collect(),
        stream_idle_timeout,
        access_log: access_log(&manager.access_log, context)?,
    })
}

/// Whether there is a log on stdout. Its lines have fixed fields, so other formats are refused: a pipeline that
/// reads them would find other fields than it was told.
fn access_log(logs: &[AccessLog], context: &mut Context) -> Result<bool, DecodeError> {
    let logs = each("access_log", logs, |log| {
        context.ignore("AccessLog.filter", log.filter.is_some());
        let Some(access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
            return Err(DecodeError::new("typed_config is missing"));
        };
        let format = if any.type_url == StdoutAccessLog::type_url() {
            let log: StdoutAccessLog = message(any, context)?;
            log.access_log_format
                .map(|stdout_access_log::AccessLogFormat::LogFormat(format)| format)
        } else if any.type_url == FileAccessLog::type_url() {
            let log: FileAccessLog = message(any, context)?;
            refuse([("a path other than /dev/stdout", log.path != "/dev/stdout")])?;
            log.access_log_format
                .map(|file_access_log::AccessLogFormat::LogFormat(format)| format)
        } else {
            return Err(DecodeError::unsupported(&any.type_url));
        };
        match format.and_then(|format| format.format) {
            None => Ok(()),
            Some(substitution_format_string::Format::JsonFormat(json)) => {
                let unknown = json.fields.keys().find(|name| !LOGGED.contains(&name.as_str()));
                match unknown {
                    None => Ok(()),
                    Some(name) => Err(DecodeError::unsupported(&format!(
                        "field {name:?} of the log format"
                    ))),
                }
            }
            Some(_) => Err(DecodeError::unsupported("a log format other than json_format")),
        }
    })?;
    Ok(!logs.is_empty())
}

fn ignore(manager: &HttpConnectionManager, context: &mut Context) {
    for (setting, set) in [
        (
            "HttpConnectionManager.http_protocol_options",
            manager.http_protocol_options.is_some(),
        ),
        (
            "HttpConnectionManager.http2_protocol_options",
            manager.http2_protocol_options.is_some(),
        ),
        (
            "HttpConnectionManager.server_name",
            !manager.server_name.is_empty(),
        ),
        (
            "HttpConnectionManager.drain_timeout",
            manager.drain_timeout.is_some(),
        ),
        (
            "HttpConnectionManager.use_remote_address",
            manager.use_remote_address.is_some(),
        ),
        (
            "HttpConnectionManager.generate_request_id",
            manager.generate_request_id.is_some(),
        ),
        (
            "HttpConnectionManager.preserve_external_request_id",
            manager.preserve_external_request_id,
        ),
        (
            "HttpConnectionManager.common_http_protocol_options",
            manager.common_http_protocol_options.is_some(),
        ),
        (
            "HttpConnectionManager.request_headers_timeout",
            manager.request_headers_timeout.is_some(),
        ),
        ("HttpConnectionManager.tracing", manager.tracing.is_some()),
        (
            "HttpConnectionManager.request_timeout",
            manager.request_timeout.is_some(),
        ),
        (
            "HttpConnectionManager.local_reply_config",
            manager.local_reply_config.is_some(),
        ),
        (
            "HttpConnectionManager.xff_num_trusted_hops",
            manager.xff_num_trusted_hops != 0,
        ),
        (
            "HttpConnectionManager.strip_any_host_port",
            manager.strip_port_mode.is_some(),
        ),
        (
            "HttpConnectionManager.forward_client_cert_details",
            manager.forward_client_cert_details != 0,
        ),
    ] {
        context.ignore(setting, set);
    }
}

/// The authorization among the filters; the router must be the last one.
fn filters(filters: &[HttpFilter], context: &mut Context) -> Result<Option<Option<Arc<Rbac>>>, DecodeError> {
    let mut found = None;
    let mut routed = false;
    each("http_filters", filters, |filter| {
        if routed {
            return Err(DecodeError::new("the router must be the last filter"));
        }
        match http_filter(filter, context)? {
            Filter::Router => routed = true,
            Filter::Rbac(_) if found.is_some() => {
                return Err(DecodeError::unsupported("a second RBAC filter"));
            }
            Filter::Rbac(rbac) => found = Some(rbac),
            Filter::Nothing => {}
        }
        Ok(())
    })?;
    if !routed {
        return Err(DecodeError::new("http_filters must end with the router"));
    }
    Ok(found)
}

enum Filter {
    Router,
    Rbac(Option<Arc<Rbac>>),
    Nothing,
}

fn http_filter(filter: &HttpFilter, context: &mut Context) -> Result<Filter, DecodeError> {
    let any = match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => return Err(DecodeError::unsupported("config_discovery")),
        None if filter.name == "envoy.filters.http.router" => return Ok(Filter::Router),
        None => return Err(DecodeError::new("typed_config is missing")),
    };
    if any.type_url == Router::type_url() {
        refuse([("disabled", filter.disabled)])?;
        let router: Router = message(any, context)?;
        refuse([("upstream_http_filters", !router.upstream_http_filters.is_empty())])?;
        Ok(Filter::Router)
    } else if any.type_url == proto_rbac::Rbac::type_url() {
        refuse([("disabled", filter.disabled)])?;
        rbac(&message(any, context)?, context).map(Filter::Rbac)
    } else if filter.disabled || is_idle_rate_limit(any, context) {
        Ok(Filter::Nothing)
    } else if filter.is_optional {
        context.ignore("an optional HTTP filter", true);
        Ok(Filter::Nothing)
    } else {
        Err(DecodeError::new(format!(
            "HTTP filter {:?} is not supported",
            any.type_url
        )))
    }
}

/// The rate limit without a bucket limits nothing.
fn is_idle_rate_limit(any: &Any, context: &mut Context) -> bool {
    any.type_url == LocalRateLimit::type_url()
        && message::<LocalRateLimit>(any, context).is_ok_and(|filter| filter.token_bucket.is_none())
}

/// The rules of an RBAC filter; `None`: it allows everything.
pub(super) fn rbac(
    filter: &proto_rbac::Rbac,
    context: &mut Context,
) -> Result<Option<Arc<Rbac>>, DecodeError> {
    refuse([("matcher", !filter.matcher.is_empty())])?;
    context.ignore("HTTP RBAC shadow_rules", filter.shadow_rules.is_some());
    let rules = filter.rules.as_ref().map(rules::rules).transpose().at("rules")?;
    Ok(rules.map(Arc::new))
}
