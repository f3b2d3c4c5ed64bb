//! Where a pair of sidecars is on loopback, and the name by which its routes know the server.

use std::net::{Ipv4Addr, SocketAddr};

use crate::bootstrap::Addresses;

/// The host that the routes know.
pub(crate) const HOST: &str = "server.bench";

/// Four ports that are free now.
///
/// # Errors
/// When the system has none left.
pub(crate) fn addresses() -> anyhow::Result<Addresses> {
    let [outbound_http, outbound_tcp, inbound_http, inbound_tcp] = weir_testbed::free_ports()?;
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Addresses {
        outbound_http: local(outbound_http),
        outbound_tcp: local(outbound_tcp),
        inbound_http: local(inbound_http),
        inbound_tcp: local(inbound_tcp),
    })
}
