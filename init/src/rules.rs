//! The redirect as an ordered list of rules per address family; pure, and the same for every backend.
//!
//! All rules concern TCP; UDP is never touched. In reading order:
//!
//! - `PREROUTING` sends everything to `WEIR_INBOUND`, which lets excluded interfaces, excluded ports and the
//!   sidecar's own ports through and hands the rest to the proxy's inbound port.
//! - `OUTPUT` sends everything to `WEIR_OUTBOUND`:
//!   1. only in local proxy mode `PodIP`: the proxy's dials of loopback are sent to the pod's own address;
//!   2. the proxy dialling an address of its own pod (a pod that calls its own Service) is handed to the proxy's
//!      inbound port, so that policy and metrics apply to it as to any other caller;
//!   3. other processes talking over loopback are left alone;
//!   4. so is the proxy, and so is whatever goes to 127.0.0.1 or ::1;
//!   5. excluded interfaces, networks and ports are left alone;
//!   6. the rest, or with an inclusion list what it names, goes to the proxy's outbound port.
//!
//! **No loop.** The inbound proxy reaches the application at 127.0.0.1 (::1), which rule 2 does not match. In mode
//! `PodIP` it dials 127.0.0.1 all the same: rule 1 translates that, and a translation ends the walk through the
//! rules for that connection, so rule 2 never sees it. The proxy must therefore never dial the pod's address to
//! reach its own application: rule 2 would return that connection to it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::ports::{self, PortRange};
use crate::redirect::{ProxyIdentity, Redirect, SIDECAR_PORTS};

/// An address family; each has its own rules, applied in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// 127.0.0.1/32 or ::1/128.
    pub fn loopback(self) -> IpNet {
        match self {
            Self::V4 => IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Self::V6 => IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A chain of the nat table: the kernel's two, and our four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// What arrives from outside.
    Prerouting,
    /// What this network namespace's processes send.
    Output,
    /// Decides on what arrives.
    Inbound,
    /// Hands over to the proxy's inbound port.
    InRedirect,
    /// Decides on what is sent.
    Outbound,
    /// Hands over to the proxy's outbound port.
    OutRedirect,
}

impl Chain {
    /// Every chain.
    pub const ALL: [Self; 6] = [
        Self::Prerouting,
        Self::Output,
        Self::Inbound,
        Self::InRedirect,
        Self::Outbound,
        Self::OutRedirect,
    ];

    /// The chains that belong to Weir alone.
    pub const OWN: [Self; 4] = [Self::Inbound, Self::InRedirect, Self::Outbound, Self::OutRedirect];

    /// The name as the kernel knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Output => "OUTPUT",
            Self::Inbound => "WEIR_INBOUND",
            Self::InRedirect => "WEIR_IN_REDIRECT",
            Self::Outbound => "WEIR_OUTBOUND",
            Self::OutRedirect => "WEIR_OUT_REDIRECT",
        }
    }
}

/// A condition on the first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Arrived on this interface.
    InInterface(String),
    /// Leaves by this interface.
    OutInterface(String),
    /// Goes to this network.
    Destination(IpNet),
    /// Goes anywhere but to this network.
    NotDestination(IpNet),
    /// Goes to one of these ports; at most [`ports::MULTIPORT_SLOTS`] slots.
    DestinationPorts(Vec<PortRange>),
    /// Sent by the proxy.
    Proxy(ProxyIdentity),
    /// Sent by anybody but the proxy.
    NotProxy(ProxyIdentity),
}

/// What happens to a connection that satisfies every match of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on with the calling chain; at the end of that, leaves as it is.
    Return,
    /// Goes on in that chain.
    Jump(Chain),
    /// Is delivered to this local port; the original destination stays known.
    Redirect(u16),
    /// Is delivered to this address, same port.
    Dnat(IpAddr),
}

/// One rule: TCP is implied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it is appended.
    pub chain: Chain,
    /// What it is for, in a few words; shown in errors.
    pub purpose: &'static str,
    /// Conditions, all of which must hold.
    pub matches: Vec<Match>,
    /// The consequence.
    pub verdict: Verdict,
}

/// The rules of one family, in the order in which they are appended to their chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// The family all of them belong to.
    pub family: Family,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl RuleSet {
    /// The rules of one chain, in order.
    pub fn of_chain(&self, chain: Chain) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }
}

/// Computes the rules of `family` for a [validated](Redirect::validated) redirect.
pub fn rules(redirect: &Redirect, family: Family) -> RuleSet {
    let mut list = List(Vec::new());
    list.inbound(redirect);
    list.outbound(redirect, family);
    RuleSet {
        family,
        rules: list.0,
    }
}

struct List(Vec<Rule>);

impl List {
    fn add(&mut self, chain: Chain, purpose: &'static str, matches: Vec<Match>, verdict: Verdict) {
        self.0.push(Rule {
            chain,
            purpose,
            matches,
            verdict,
        });
    }

    fn inbound(&mut self, redirect: &Redirect) {
        use Chain::{InRedirect, Inbound, Prerouting};
        self.add(Prerouting, "all inbound", vec![], Verdict::Jump(Inbound));
        for name in &redirect.exclude_interfaces {
            self.add(
                Inbound,
                "excluded interface",
                vec![Match::InInterface(name.clone())],
                Verdict::Return,
            );
        }
        self.return_ports(Inbound, "excluded inbound ports", &redirect.exclude_inbound_ports);
        self.return_ports(Inbound, "sidecar's own ports", &sidecar_ports());
        self.add(Inbound, "inbound to the proxy", vec![], Verdict::Jump(InRedirect));
        self.add(
            InRedirect,
            "inbound redirect",
            vec![],
            Verdict::Redirect(redirect.inbound_port),
        );
    }

    fn outbound(&mut self, redirect: &Redirect, family: Family) {
        use Chain::{InRedirect, OutRedirect, Outbound, Output};
        let lo = || Match::OutInterface("lo".to_owned());
        let loopback = family.loopback();
        let proxy = redirect.proxy;

        self.add(Output, "all outbound", vec![], Verdict::Jump(Outbound));
        if let Some(pod_ip) = redirect.pod_ips.iter().find(|ip| Family::of(**ip) == family) {
            let matches = vec![Match::Destination(loopback), lo(), Match::Proxy(proxy)];
            self.add(
                Outbound,
                "proxy to the application by pod address",
                matches,
                Verdict::Dnat(*pod_ip),
            );
        }
        let matches = vec![Match::NotDestination(loopback), lo(), Match::Proxy(proxy)];
        self.add(
            Outbound,
            "pod calls itself through its Service",
            matches,
            Verdict::Jump(InRedirect),
        );
        self.add(
            Outbound,
            "loopback of the application",
            vec![lo(), Match::NotProxy(proxy)],
            Verdict::Return,
        );
        self.add(
            Outbound,
            "sent by the proxy",
            vec![Match::Proxy(proxy)],
            Verdict::Return,
        );
        self.add(
            Outbound,
            "loopback address",
            vec![Match::Destination(loopback)],
            Verdict::Return,
        );
        for name in &redirect.exclude_interfaces {
            self.add(
                Outbound,
                "excluded interface",
                vec![Match::OutInterface(name.clone())],
                Verdict::Return,
            );
        }
        for network in of_family(&redirect.exclude_outbound_cidrs, family) {
            self.add(
                Outbound,
                "excluded network",
                vec![Match::Destination(network)],
                Verdict::Return,
            );
        }
        self.return_ports(
            Outbound,
            "excluded outbound ports",
            &redirect.exclude_outbound_ports,
        );
        if redirect.include_outbound_cidrs.is_empty() {
            self.add(
                Outbound,
                "outbound to the proxy",
                vec![],
                Verdict::Jump(OutRedirect),
            );
        } else {
            for network in of_family(&redirect.include_outbound_cidrs, family) {
                let matches = vec![Match::Destination(network)];
                self.add(
                    Outbound,
                    "included network to the proxy",
                    matches,
                    Verdict::Jump(OutRedirect),
                );
            }
        }
        self.add(
            OutRedirect,
            "outbound redirect",
            vec![],
            Verdict::Redirect(redirect.outbound_port),
        );
    }

    fn return_ports(&mut self, chain: Chain, purpose: &'static str, ranges: &[PortRange]) {
        for group in ports::groups(ranges) {
            self.add(
                chain,
                purpose,
                vec![Match::DestinationPorts(group)],
                Verdict::Return,
            );
        }
    }
}

fn sidecar_ports() -> Vec<PortRange> {
    SIDECAR_PORTS
        .iter()
        .filter_map(|(first, last)| PortRange::new(*first, *last))
        .collect()
}

fn of_family(networks: &[IpNet], family: Family) -> impl Iterator<Item = IpNet> {
    networks
        .iter()
        .copied()
        .filter(move |network| Family::of(network.addr()) == family)
}
