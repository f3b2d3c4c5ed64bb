//! Proves the redirect from inside the pod, before the proxy starts.
//!
//! Outbound is proved by use: listen where the proxy will, dial an address that nobody has, and find oneself at the
//! other end with the dialled address as original destination. Inbound cannot be dialled from inside, so its rules
//! are read back.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::backend::{self, Backend, Missing};
use crate::redirect::{ProxyIdentity, Redirect};
use crate::rules::{Family, RuleSet};

/// How long a dial may take. The answer comes from this machine, so only a dial that left it takes as long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Addresses set apart for documentation (RFC 5737, RFC 3849): no network has them.
const NOBODY_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(203, 0, 113, 1),
];
const NOBODY_V6: [Ipv6Addr; 1] = [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)];

/// What is wrong with the redirect.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Rules could not be read back.
    #[error("{family}: cannot read the rules back: {source}")]
    ReadBack {
        /// The address family.
        family: Family,
        /// Why.
        source: backend::Error,
    },
    /// Rules are not in force.
    #[error(
        "{family}: not in force: {}; another program changed the nat table after weir-init wrote it: \
         find what else manages rules in this pod (a CNI plugin, another mesh's init container) and run weir-init last",
        list(.missing)
    )]
    Missing {
        /// The address family.
        family: Family,
        /// The rules, the first of which is the most telling.
        missing: Vec<Missing>,
    },
    /// The proxy's port is taken.
    #[error(
        "{family}: cannot listen on the outbound port {port}: {source}; weir-init must run before the sidecar, \
         and nothing else in the pod may use that port"
    )]
    Listen {
        /// The address family.
        family: Family,
        /// The outbound port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The dial left the pod or failed.
    #[error(
        "{family}: a connection to {target} was not redirected to port {port}: {source}; check that the kernel has \
         connection tracking and nat for {family} (nf_conntrack, nf_nat), and that no other rule comes first in \
         the nat OUTPUT chain"
    )]
    NotRedirected {
        /// The address family.
        family: Family,
        /// What was dialled.
        target: SocketAddr,
        /// The outbound port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The connection arrived, and the kernel does not know where it was meant to go.
    #[error(
        "{family}: the original destination of a redirected connection is {found}, not {target}; check that the \
         kernel has connection tracking for {family} (nf_conntrack)"
    )]
    OriginalDestination {
        /// The address family.
        family: Family,
        /// What was dialled.
        target: SocketAddr,
        /// What the kernel said.
        found: String,
    },
}

/// What could be proved for a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The rules are in force and an outbound connection was captured.
    Dialled(SocketAddr),
    /// The rules are in force; the reason says why no connection could be tried.
    ReadBack(&'static str),
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialled(target) => write!(f, "redirect verified, a connection to {target} was captured"),
            Self::ReadBack(reason) => write!(f, "rules verified, no connection tried: {reason}"),
        }
    }
}

/// Checks that `set` is in force and works.
///
/// # Errors
/// What is wrong, and what to do about it.
pub fn verify(backend: &Backend, redirect: &Redirect, set: &RuleSet) -> Result<Proof, Error> {
    let family = set.family;
    let missing = backend
        .missing(set)
        .map_err(|source| Error::ReadBack { family, source })?;
    if !missing.is_empty() {
        return Err(Error::Missing { family, missing });
    }
    if runs_as(redirect.proxy) {
        return Ok(Proof::ReadBack(
            "weir-init runs as the proxy's user, which is exempt",
        ));
    }
    match targets(redirect, family)
        .into_iter()
        .find(|target| !is_own(target.ip()))
    {
        Some(target) => dial(redirect.outbound_port, target),
        None => Ok(Proof::ReadBack(
            "nothing that could be dialled safely is redirected",
        )),
    }
}

/// Addresses and ports that the rules send to the proxy: those nobody has, then one of each included network.
fn targets(redirect: &Redirect, family: Family) -> Vec<SocketAddr> {
    let excluded = |port: u16| {
        redirect
            .exclude_outbound_ports
            .iter()
            .any(|range| range.contains(port))
    };
    let Some(port) = (1..=u16::MAX).rev().find(|port| !excluded(*port)) else {
        return Vec::new();
    };
    let nobody: Vec<IpAddr> = match family {
        Family::V4 => NOBODY_V4.map(IpAddr::V4).to_vec(),
        Family::V6 => NOBODY_V6.map(IpAddr::V6).to_vec(),
    };
    let included = redirect
        .include_outbound_cidrs
        .iter()
        .filter_map(|network| network.hosts().next());
    let candidates = nobody
        .into_iter()
        .chain(included.filter(|ip| Family::of(*ip) == family));
    let captured =
        candidates.filter(|ip| captured(redirect, *ip) && !ip.is_unspecified() && !ip.is_multicast());
    captured.map(|ip| SocketAddr::new(ip, port)).collect()
}

/// Whether the address is one of this pod's, which is reached over loopback and never redirected.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

fn captured(redirect: &Redirect, ip: IpAddr) -> bool {
    let included = redirect.include_outbound_cidrs.is_empty()
        || redirect
            .include_outbound_cidrs
            .iter()
            .any(|network| network.contains(&ip));
    included
        && !redirect
            .exclude_outbound_cidrs
            .iter()
            .any(|network| network.contains(&ip))
}

fn runs_as(proxy: ProxyIdentity) -> bool {
    proxy == ProxyIdentity::Uid(nix::unistd::geteuid().as_raw())
}

fn dial(port: u16, target: SocketAddr) -> Result<Proof, Error> {
    let family = Family::of(target.ip());
    let listen = |source| Error::Listen { family, port, source };
    let listener = listen_on(family, port).map_err(listen)?;
    let stream = match TcpStream::connect_timeout(&target, PATIENCE) {
        Ok(stream) => stream,
        Err(error) if unroutable(&error) => {
            return Ok(Proof::ReadBack(
                "this network namespace has no route to the outside",
            ));
        }
        Err(source) => {
            return Err(Error::NotRedirected {
                family,
                target,
                port,
                source,
            });
        }
    };
    let not_redirected = |source| Error::NotRedirected {
        family,
        target,
        port,
        source,
    };
    let local = stream.local_addr().map_err(not_redirected)?;
    let accepted = loop {
        let (accepted, peer) = listener.accept().map_err(|error| {
            not_redirected(match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::other("something else answered at that address"),
                _ => error,
            })
        })?;
        if peer == local {
            break accepted;
        }
    };
    let original = original_destination(&accepted, family);
    match original {
        Ok(found) if found == target => Ok(Proof::Dialled(target)),
        Ok(found) => Err(Error::OriginalDestination {
            family,
            target,
            found: found.to_string(),
        }),
        Err(error) => Err(Error::OriginalDestination {
            family,
            target,
            found: format!("unknown ({error})"),
        }),
    }
}

/// A listener whose `accept` never waits: the handshake is over once the dial returns.
fn listen_on(family: Family, port: u16) -> io::Result<TcpListener> {
    let (domain, any) = match family {
        Family::V4 => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        Family::V6 => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.listen(16)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn unroutable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable
    )
}

fn original_destination(stream: &TcpStream, family: Family) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let address = match family {
        Family::V4 => socket.original_dst_v4()?,
        Family::V6 => socket.original_dst_v6()?,
    };
    address
        .as_socket()
        .ok_or_else(|| io::Error::other("not an internet address"))
}

fn list(missing: &[Missing]) -> String {
    const SHOWN: usize = 3;
    let mut text = missing
        .iter()
        .take(SHOWN)
        .map(Missing::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if missing.len() > SHOWN {
        text.push_str(&format!(" and {} more", missing.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_target(change: impl FnOnce(&mut Redirect), family: Family) -> Option<String> {
        let mut redirect = Redirect::new(15003, 15001, ProxyIdentity::Uid(1500));
        change(&mut redirect);
        targets(&redirect, family).first().map(SocketAddr::to_string)
    }

    #[test]
    fn the_dial_goes_where_the_rules_redirect() {
        assert_eq!(
            first_target(|_| {}, Family::V4).as_deref(),
            Some("192.0.2.1:65535")
        );
        assert_eq!(
            first_target(|_| {}, Family::V6).as_deref(),
            Some("[2001:db8::1]:65535")
        );
        let port = |r: &mut Redirect| r.exclude_outbound_ports = vec!["60000-65535".parse().unwrap()];
        assert_eq!(first_target(port, Family::V4).as_deref(), Some("192.0.2.1:59999"));
        let network = |r: &mut Redirect| r.exclude_outbound_cidrs = vec!["192.0.0.0/8".parse().unwrap()];
        assert_eq!(
            first_target(network, Family::V4).as_deref(),
            Some("198.51.100.1:65535")
        );
        let included = |r: &mut Redirect| r.include_outbound_cidrs = vec!["10.1.0.0/16".parse().unwrap()];
        assert_eq!(
            first_target(included, Family::V4).as_deref(),
            Some("10.1.0.1:65535")
        );
        assert_eq!(first_target(included, Family::V6), None);
        let nothing = |r: &mut Redirect| r.exclude_outbound_ports = vec!["1-65535".parse().unwrap()];
        assert_eq!(first_target(nothing, Family::V4), None);
    }
}
