//! Small messages that many resources use.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use weir_xds::envoy::config::core::v3::{
    Address, CidrRange, ConfigSource, DataSource, HeaderValueOption, HttpProtocolOptions,
    RuntimeFractionalPercent, SocketAddress,
    address::Address as Kind,
    config_source::ConfigSourceSpecifier,
    data_source::Specifier,
    header_value_option::HeaderAppendAction,
    socket_address::{PortSpecifier, Protocol},
};
use weir_xds::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::{
    Context, DecodeError, Origin,
    error::{At, each, refuse},
};
use crate::model::{HeaderMutation, HeaderMutations};

/// A socket address with a literal IP.
///
/// # Errors
/// For names, pipes, UDP and bad ports.
pub fn address(address: &Address) -> Result<SocketAddr, DecodeError> {
    let (host, port) = host_port(address)?;
    let ip: IpAddr = host
        .parse()
        .map_err(|_| DecodeError::new(format!("{host:?} is not an IP address")))?;
    Ok(SocketAddr::new(ip, port))
}

/// A socket address whose host may be a name.
pub(super) fn host_port(address: &Address) -> Result<(&str, u16), DecodeError> {
    match &address.address {
        Some(Kind::SocketAddress(socket)) => socket_address(socket).at("socket_address"),
        Some(Kind::Pipe(_)) => Err(DecodeError::unsupported("pipe")),
        None => Err(DecodeError::new("an address needs a socket_address")),
    }
}

fn socket_address(socket: &SocketAddress) -> Result<(&str, u16), DecodeError> {
    if socket.protocol() != Protocol::Tcp {
        return Err(DecodeError::unsupported("protocol UDP"));
    }
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Err(DecodeError::new("port_value is missing"));
    };
    Ok((&socket.address, self::port(port).at("port_value")?))
}

/// Refuses a resource that is to come from elsewhere than the aggregated stream.
pub(super) fn over_ads(source: Option<&ConfigSource>) -> Result<(), DecodeError> {
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        None | Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(()),
        Some(_) => Err(DecodeError::unsupported("another source than ads: {}")),
    }
}

/// Refuses HTTP settings that decide which requests are let through.
pub(super) fn common_http(options: Option<&HttpProtocolOptions>) -> Result<(), DecodeError> {
    let action = options.map_or(0, |options| options.headers_with_underscores_action);
    refuse([("headers_with_underscores_action", action != 0)])
}

/// A TCP port; 0 included.
pub(super) fn port(port: u32) -> Result<u16, DecodeError> {
    u16::try_from(port).map_err(|_| DecodeError::new(format!("{port} is not a port")))
}

/// A duration that must not be negative.
pub(super) fn duration(duration: prost_types::Duration) -> Result<Duration, DecodeError> {
    Duration::try_from(duration).map_err(|_| DecodeError::new("a duration must not be negative"))
}

/// An optional duration.
pub(super) fn optional_duration(
    value: Option<prost_types::Duration>,
) -> Result<Option<Duration>, DecodeError> {
    value.map(duration).transpose()
}

/// A duration where zero means "off", as in Envoy's timeouts.
pub(super) fn timeout(value: Option<prost_types::Duration>) -> Result<Option<Duration>, DecodeError> {
    Ok(optional_duration(value)?.filter(|duration| !duration.is_zero()))
}

/// An address range.
pub(super) fn cidr(range: &CidrRange) -> Result<IpNet, DecodeError> {
    let ip: IpAddr = range
        .address_prefix
        .parse()
        .map_err(|_| DecodeError::new(format!("{:?} is not an IP address", range.address_prefix)))?;
    let length = range.prefix_len.unwrap_or_default();
    let net = u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(ip, length).ok());
    net.map(|net| net.trunc())
        .ok_or_else(|| DecodeError::new(format!("{length} is not a prefix length for {ip}")))
}

/// Bytes given in place, or for the bootstrap in a file or an environment variable.
pub(super) fn data(source: &DataSource, context: &Context) -> Result<Vec<u8>, DecodeError> {
    match (&source.specifier, context.origin) {
        (Some(Specifier::InlineBytes(bytes)), _) => Ok(bytes.clone()),
        (Some(Specifier::InlineString(text)), _) => Ok(text.clone().into_bytes()),
        (Some(Specifier::Filename(path)), Origin::Bootstrap) => {
            std::fs::read(path).map_err(|error| DecodeError::new(format!("cannot read {path:?}: {error}")))
        }
        (Some(Specifier::EnvironmentVariable(name)), Origin::Bootstrap) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|error| DecodeError::new(format!("environment variable {name:?}: {error}"))),
        (Some(_), Origin::Stream) => Err(DecodeError::new(
            "a control plane may not name files or environment variables of the proxy: send the bytes in place",
        )),
        (None, _) => Err(DecodeError::new("a data source needs a specifier")),
    }
}

/// [`data`] that must be text.
pub(super) fn text(source: &DataSource, context: &Context) -> Result<String, DecodeError> {
    String::from_utf8(data(source, context)?).map_err(|_| DecodeError::new("the text is not UTF-8"))
}

/// The four header lists that routes, hosts and tables have.
pub(super) fn headers(
    request_add: &[HeaderValueOption],
    request_remove: &[String],
    response_add: &[HeaderValueOption],
    response_remove: &[String],
) -> Result<HeaderMutations, DecodeError> {
    Ok(HeaderMutations {
        request_set: each("request_headers_to_add", request_add, header)?,
        request_remove: each("request_headers_to_remove", request_remove, |name| {
            header_name(name)
        })?,
        response_set: each("response_headers_to_add", response_add, header)?,
        response_remove: each("response_headers_to_remove", response_remove, |name| {
            header_name(name)
        })?,
    })
}

fn header(option: &HeaderValueOption) -> Result<HeaderMutation, DecodeError> {
    let header = option
        .header
        .as_ref()
        .ok_or_else(|| DecodeError::new("header is missing"))?;
    let append = match (option.append, option.append_action()) {
        (Some(append), _) => append,
        (None, HeaderAppendAction::AppendIfExistsOrAdd) => true,
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => false,
        (None, HeaderAppendAction::AddIfAbsent | HeaderAppendAction::OverwriteIfExists) => {
            return Err(DecodeError::unsupported("this append_action"));
        }
    };
    let value = if header.value.is_empty() {
        &header.raw_value[..]
    } else {
        header.value.as_bytes()
    };
    if value.contains(&b'%') {
        return Err(DecodeError::new(format!(
            "the value of {:?} uses a %COMMAND%, and none is supported",
            header.key
        )));
    }
    let value = HeaderValue::from_bytes(value)
        .map_err(|_| DecodeError::new(format!("the value of {:?} is not a header value", header.key)))?;
    Ok(HeaderMutation {
        name: header_name(&header.key)?,
        value,
        append,
    })
}

/// A header's name; pseudo-headers and `host` cannot be changed.
fn header_name(name: &str) -> Result<HeaderName, DecodeError> {
    match HeaderName::try_from(name) {
        Ok(name) if name != http::header::HOST => Ok(name),
        _ => Err(DecodeError::new(format!("header {name:?} cannot be changed"))),
    }
}

/// Whether a share is the whole; an unset one is.
pub(super) fn is_whole(fraction: Option<&RuntimeFractionalPercent>) -> bool {
    let Some(value) = fraction.and_then(|fraction| fraction.default_value.as_ref()) else {
        return true;
    };
    let whole = match value.denominator() {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    value.numerator >= whole
}
