//! Which filter chain a connection belongs to. Pure.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::{
    detect::{Detected, Hello},
    model::{ChainMatch, FilterChain, Listener, Transport},
};

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    /// Where it comes from.
    pub source: SocketAddr,
    /// What the first bytes are.
    pub transport: Transport,
    /// What the ClientHello offers; for plaintext, what inspection found.
    pub hello: Hello,
}

impl Facts {
    /// The facts once the first bytes are known; `None` when they were not looked at.
    pub fn new(source: SocketAddr, destination: SocketAddr, detected: Option<&Detected>) -> Self {
        let plain = |alpn: &[&str]| Hello {
            sni: String::new(),
            alpn: alpn.iter().map(|&name| name.to_owned()).collect(),
        };
        let (transport, hello) = match detected {
            Some(Detected::Tls(hello)) => (Transport::Tls, hello.clone()),
            Some(Detected::Http1) => (Transport::RawBuffer, plain(&["http/1.1"])),
            Some(Detected::Http2) => (Transport::RawBuffer, plain(&["h2c"])),
            _ => (Transport::RawBuffer, plain(&[])),
        };
        Self {
            destination,
            source,
            transport,
            hello,
        }
    }
}

/// The index of the most specific chain, or `None` when no chain but perhaps the default one applies.
///
/// As in Envoy, conditions are compared one after the other in the order of [`ChainMatch`]'s fields. Chains less
/// specific in one condition are out before the next is looked at, even if those left then fail.
pub fn select(listener: &Listener, facts: &Facts) -> Option<usize> {
    let conditions: [fn(&ChainMatch, &Facts) -> Option<usize>; 7] = [
        destination_port,
        destination,
        server_name,
        transport,
        application_protocol,
        source,
        source_port,
    ];
    let mut left: Vec<usize> = (0..listener.chains.len()).collect();
    for condition in conditions {
        let scored: Vec<(usize, usize)> = left
            .iter()
            .filter_map(|&index| Some((index, condition(&listener.chains[index].matches, facts)?)))
            .collect();
        let best = scored.iter().map(|&(_, score)| score).max()?;
        left = scored
            .into_iter()
            .filter_map(|(index, score)| (score == best).then_some(index))
            .collect();
    }
    left.first().copied()
}

/// Whether any chain asks what the first bytes are, so that a listener without such a chain waits for none.
pub fn inspects(chains: &[std::sync::Arc<FilterChain>]) -> bool {
    chains.iter().any(|chain| {
        chain.matches.transport.is_some()
            || !chain.matches.application_protocols.is_empty()
            || !chain.matches.server_names.is_empty()
    })
}

fn destination_port(matches: &ChainMatch, facts: &Facts) -> Option<usize> {
    match matches.destination_port {
        None => Some(0),
        Some(port) => (port == facts.destination.port()).then_some(1),
    }
}

fn destination(matches: &ChainMatch, facts: &Facts) -> Option<usize> {
    prefix(&matches.destination, facts.destination)
}

fn source(matches: &ChainMatch, facts: &Facts) -> Option<usize> {
    prefix(&matches.source, facts.source)
}

fn prefix(nets: &[IpNet], address: SocketAddr) -> Option<usize> {
    if nets.is_empty() {
        return Some(0);
    }
    let containing = nets.iter().filter(|net| net.contains(&address.ip()));
    containing.map(|net| 1 + usize::from(net.prefix_len())).max()
}

/// Exact names beat suffixes, a longer suffix a shorter one.
fn server_name(matches: &ChainMatch, facts: &Facts) -> Option<usize> {
    if matches.server_names.is_empty() {
        return Some(0);
    }
    let sni = facts.hello.sni.as_str();
    let score = |name: &String| {
        if name == sni {
            return Some(usize::MAX);
        }
        let suffix = name.strip_prefix('*')?;
        let matched = suffix.starts_with('.') && sni.len() > suffix.len() && sni.ends_with(suffix);
        matched.then_some(suffix.len())
    };
    matches.server_names.iter().filter_map(score).max()
}

fn transport(matches: &ChainMatch, facts: &Facts) -> Option<usize> {
    match matches.transport {
        None => Some(0),
        Some(transport) => (transport == facts.transport).then_some(1),
    }
}

/// The client's order of preference decides.
fn application_protocol(matches: &ChainMatch, facts: &Facts) -> Option<usize> {
    if matches.application_protocols.is_empty() {
        return Some(0);
    }
    let offered = &facts.hello.alpn;
    let position = offered
        .iter()
        .position(|name| matches.application_protocols.contains(name))?;
    Some(offered.len() - position)
}

fn source_port(matches: &ChainMatch, facts: &Facts) -> Option<usize> {
    if matches.source_ports.is_empty() {
        return Some(0);
    }
    matches.source_ports.contains(&facts.source.port()).then_some(1)
}

#[cfg(test)]
mod tests;
