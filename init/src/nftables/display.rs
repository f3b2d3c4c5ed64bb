//! A table in the syntax of the `nft` program, for people: nothing reads it back.

use std::fmt;

use super::{Action, Chain, Hook, Match, Protocol, Rule, Table};
use crate::rules::Family;

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        writeln!(f, "table {family} {} {{", self.name)?;
        for chain in &self.chains {
            write_chain(f, chain, family)?;
        }
        writeln!(f, "}}")
    }
}

fn write_chain(f: &mut fmt::Formatter<'_>, chain: &Chain, family: &str) -> fmt::Result {
    writeln!(f, "\tchain {} {{", chain.name)?;
    if let Some(hook) = chain.hook {
        let (hook, priority) = match hook {
            Hook::Prerouting => ("prerouting", -100),
            Hook::Output => ("output", -100),
            Hook::Postrouting => ("postrouting", 100),
        };
        writeln!(f, "\t\ttype nat hook {hook} priority {priority}; policy accept;")?;
    }
    for rule in &chain.rules {
        write_rule(f, rule, family)?;
    }
    writeln!(f, "\t}}")
}

fn write_rule(f: &mut fmt::Formatter<'_>, rule: &Rule, family: &str) -> fmt::Result {
    write!(f, "\t\t")?;
    for item in &rule.matches {
        match item {
            Match::Protocol(Protocol::Tcp) => write!(f, "meta l4proto tcp ")?,
            Match::Protocol(Protocol::Udp) => write!(f, "meta l4proto udp ")?,
            Match::InInterface(name) => write!(f, "iifname \"{name}\" ")?,
            Match::OutInterface(name) => write!(f, "oifname \"{name}\" ")?,
            Match::Source(network) => write!(f, "{family} saddr {network} ")?,
            Match::NotSource(network) => write!(f, "{family} saddr != {network} ")?,
            Match::Destination(network) => write!(f, "{family} daddr {network} ")?,
            Match::NotDestination(network) => write!(f, "{family} daddr != {network} ")?,
            Match::DestinationPort { first, last } if first == last => write!(f, "th dport {first} ")?,
            Match::DestinationPort { first, last } => write!(f, "th dport {first}-{last} ")?,
            Match::Uid(uid) => write!(f, "meta skuid {uid} ")?,
            Match::NotUid(uid) => write!(f, "meta skuid != {uid} ")?,
            Match::Mark(mark) => write!(f, "meta mark {mark:#x} ")?,
            Match::NotMark(mark) => write!(f, "meta mark != {mark:#x} ")?,
            Match::Translated => write!(f, "ct status dnat ")?,
            Match::OneIn(count) => write!(f, "numgen random mod {count} 0 ")?,
        }
    }
    match &rule.action {
        Action::Accept => write!(f, "accept")?,
        Action::Return => write!(f, "return")?,
        Action::Jump(chain) => write!(f, "jump {chain}")?,
        Action::Redirect(port) => write!(f, "redirect to :{port}")?,
        Action::Dnat { address, port: None } => write!(f, "dnat to {address}")?,
        Action::Dnat {
            address,
            port: Some(port),
        } if address.is_ipv6() => {
            write!(f, "dnat to [{address}]:{port}")?;
        }
        Action::Dnat {
            address,
            port: Some(port),
        } => write!(f, "dnat to {address}:{port}")?,
        Action::Masquerade => write!(f, "masquerade")?,
    }
    writeln!(f, " comment \"{}\"", rule.name)
}
