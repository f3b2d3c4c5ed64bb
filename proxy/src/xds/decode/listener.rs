//! Listeners and their filter chains.

use std::{collections::HashSet, sync::Arc, time::Duration};

use weir_xds::{
    TypeUrl,
    envoy::{
        config::{
            core::v3::TrafficDirection,
            listener::v3::{
                self as proto, ListenerFilter, filter_chain_match::ConnectionSourceType,
                listener_filter::ConfigType,
            },
        },
        extensions::filters::listener::{
            http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst, tls_inspector::v3::TlsInspector,
        },
    },
};

use super::{
    Context, DecodeError,
    error::{At, each, refuse},
    field, network, tls,
};
use crate::model::{ChainMatch, Direction, FilterChain, Inspect, Listener, Transport};

/// What stands for "wait as long as it takes" (a timeout of 0).
const WITHOUT_END: Duration = Duration::from_secs(24 * 3600);

/// A listener.
pub(super) fn listener(listener: proto::Listener, context: &mut Context) -> Result<Listener, DecodeError> {
    if listener.name.is_empty() {
        return Err(DecodeError::new("name must not be empty"));
    }
    refuse([
        ("udp_listener_config", !listener.udp_listener_config.is_empty()),
        ("api_listener", !listener.api_listener.is_empty()),
        ("internal_listener", listener.listener_specifier.is_some()),
        ("filter_chain_matcher", !listener.filter_chain_matcher.is_empty()),
        ("additional_addresses", !listener.additional_addresses.is_empty()),
        ("fcds_config", !listener.fcds_config.is_empty()),
        ("transparent", listener.transparent == Some(true)),
    ])?;
    context.ignore(
        "Listener.per_connection_buffer_limit_bytes",
        listener.per_connection_buffer_limit_bytes.is_some(),
    );
    context.ignore("Listener.tcp_backlog_size", listener.tcp_backlog_size.is_some());
    context.ignore("Listener.access_log", !listener.access_log.is_empty());
    let direction = direction(&listener)?;
    let (original_dst, inspect) = inspection(&listener, context)?;
    let address = match &listener.address {
        _ if listener.bind_to_port == Some(false) => None,
        Some(address) => Some(field::address(address).at("address")?),
        None => {
            return Err(DecodeError::new(
                "address is missing; only with bind_to_port: false it may be",
            ));
        }
    };
    let chains = each("filter_chains", listener.filter_chains, |chain| {
        self::chain(chain, context).map(Arc::new)
    })?;
    let mut seen = HashSet::new();
    for (index, chain) in chains.iter().enumerate() {
        if !seen.insert(format!("{:?}", chain.matches)) {
            return Err(DecodeError::new("another chain has the same match"))
                .at_index("filter_chains", index);
        }
    }
    Ok(Listener {
        address,
        original_dst,
        direction,
        inspect,
        chains,
        default_chain: listener
            .default_filter_chain
            .map(|chain| self::chain(chain, context).map(Arc::new))
            .transpose()
            .at("default_filter_chain")?,
        name: listener.name,
    })
}

fn direction(listener: &proto::Listener) -> Result<Direction, DecodeError> {
    match TrafficDirection::try_from(listener.traffic_direction) {
        Ok(TrafficDirection::Unspecified) => Ok(Direction::Unspecified),
        Ok(TrafficDirection::Inbound) => Ok(Direction::Inbound),
        Ok(TrafficDirection::Outbound) => Ok(Direction::Outbound),
        Err(_) => Err(DecodeError::unsupported("this traffic_direction")),
    }
}

fn inspection(listener: &proto::Listener, context: &mut Context) -> Result<(bool, Inspect), DecodeError> {
    let mut original_dst = listener.use_original_dst == Some(true);
    let timeout =
        field::optional_duration(listener.listener_filters_timeout).at("listener_filters_timeout")?;
    let mut inspect = Inspect {
        timeout: timeout.map(|timeout| if timeout.is_zero() { WITHOUT_END } else { timeout }),
        continue_on_timeout: listener.continue_on_listener_filters_timeout,
        ..Inspect::default()
    };
    let filters = each("listener_filters", &listener.listener_filters, |filter| {
        context.ignore("ListenerFilter.filter_disabled", filter.filter_disabled.is_some());
        listener_filter(filter)
    })?;
    for filter in filters {
        match filter {
            Filter::OriginalDst => original_dst = true,
            Filter::Tls => inspect.tls = true,
            Filter::Http => inspect.http = true,
        }
    }
    Ok((original_dst, inspect))
}

enum Filter {
    OriginalDst,
    Tls,
    Http,
}

fn listener_filter(filter: &ListenerFilter) -> Result<Filter, DecodeError> {
    let known = [
        (
            OriginalDst::type_url(),
            "envoy.filters.listener.original_dst",
            Filter::OriginalDst,
        ),
        (
            TlsInspector::type_url(),
            "envoy.filters.listener.tls_inspector",
            Filter::Tls,
        ),
        (
            HttpInspector::type_url(),
            "envoy.filters.listener.http_inspector",
            Filter::Http,
        ),
    ];
    let by_type = match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) if !any.type_url.is_empty() => Some(&any.type_url),
        Some(ConfigType::ConfigDiscovery(_)) => return Err(DecodeError::unsupported("config_discovery")),
        _ => None,
    };
    known
        .into_iter()
        .find(|(url, name, _)| match by_type {
            Some(wanted) => wanted == url,
            None => filter.name == *name,
        })
        .map(|(_, _, found)| found)
        .ok_or_else(|| {
            let what = by_type.map_or(&filter.name, |url| url);
            DecodeError::new(format!("listener filter {what:?} is not known here"))
        })
}

fn chain(chain: proto::FilterChain, context: &mut Context) -> Result<FilterChain, DecodeError> {
    refuse([("use_proxy_proto", !chain.use_proxy_proto.is_empty())])?;
    context.ignore(
        "FilterChain.transport_socket_connect_timeout",
        chain.transport_socket_connect_timeout.is_some(),
    );
    let tls = tls::downstream(chain.transport_socket.as_ref(), context).at("transport_socket")?;
    let (network, terminal) = network::filters(&chain.filters, context)?;
    Ok(FilterChain {
        matches: chain_match(chain.filter_chain_match.unwrap_or_default()).at("filter_chain_match")?,
        tls,
        network,
        terminal,
        name: chain.name,
    })
}

fn chain_match(matches: proto::FilterChainMatch) -> Result<ChainMatch, DecodeError> {
    refuse([
        ("address_suffix", !matches.address_suffix.is_empty()),
        ("suffix_len", !matches.suffix_len.is_empty()),
        (
            "source_type",
            matches.source_type != ConnectionSourceType::Any as i32,
        ),
        (
            "direct_source_prefix_ranges",
            !matches.direct_source_prefix_ranges.is_empty(),
        ),
    ])?;
    let transport = match matches.transport_protocol.as_str() {
        "" => None,
        "raw_buffer" => Some(Transport::RawBuffer),
        "tls" => Some(Transport::Tls),
        other => {
            return Err(DecodeError::new(format!(
                "transport_protocol {other:?} is not known here"
            )));
        }
    };
    let server_names = each("server_names", &matches.server_names, |name| {
        let suffix = name.strip_prefix("*.").unwrap_or(name);
        if suffix.is_empty() || suffix.contains('*') {
            return Err(DecodeError::new(format!(
                "{name:?} is neither a name nor \"*.suffix\""
            )));
        }
        Ok(name.to_ascii_lowercase())
    })?;
    Ok(ChainMatch {
        destination_port: matches
            .destination_port
            .map(field::port)
            .transpose()
            .at("destination_port")?,
        destination: each("prefix_ranges", &matches.prefix_ranges, field::cidr)?,
        server_names,
        transport,
        application_protocols: matches.application_protocols,
        source: each("source_prefix_ranges", &matches.source_prefix_ranges, field::cidr)?,
        source_ports: each("source_ports", matches.source_ports, field::port)?,
    })
}
