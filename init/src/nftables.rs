//! nat tables of the kernel's nf_tables, written over netlink: no program, no library.
//!
//! A [`Table`] is described, then handed to [`Netlink::replace`], which makes the kernel hold exactly that table, in
//! one transaction: the old one of the same name stays in force until the new one is. Tables of others are untouched.
//!
//! ```no_run
//! use weir_init::nftables::{Action, Hook, Match, Netlink, Protocol, Rule, Table};
//! use weir_init::rules::Family;
//!
//! let mut table = Table::new(Family::V4, "services");
//! let services = table.hook("prerouting", Hook::Prerouting);
//! services.dnat_one_of(
//!     "bookstore/bookstore:14001",
//!     &[
//!         Match::Protocol(Protocol::Tcp),
//!         Match::Destination("10.96.0.7/32".parse()?),
//!         Match::DestinationPort { first: 14001, last: 14001 },
//!     ],
//!     &["10.244.1.2:14001".parse()?, "10.244.1.3:14001".parse()?],
//! );
//! let mut postrouting = table.hook("postrouting", Hook::Postrouting);
//! postrouting.rule(Rule::new("hairpin", vec![Match::Translated], Action::Masquerade));
//! Netlink::open()?.replace(&table)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod display;
mod encode;
mod redirect;
mod socket;
mod wire;

pub use redirect::{TABLE, missing, table};
pub use socket::{Error, InForce, Netlink};

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::rules::Family;

/// A table: a name, a family and its chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub(crate) family: Family,
    pub(crate) name: String,
    pub(crate) chains: Vec<Chain>,
}

/// A chain of rules, evaluated in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub(crate) name: String,
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// Where the kernel enters a chain, for the first packet of each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Arriving, before routing; destinations may be translated.
    Prerouting,
    /// Sent from here, before routing; destinations may be translated.
    Output,
    /// Leaving, after routing; sources may be translated.
    Postrouting,
}

/// One rule: every match holds, then the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Shown in errors and, as a comment, by `nft list ruleset`; the first 100 bytes count.
    pub name: String,
    /// The conditions.
    pub matches: Vec<Match>,
    /// The consequence.
    pub action: Action,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A condition. Ports are meaningful only after a [`Match::Protocol`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// This transport protocol.
    Protocol(Protocol),
    /// Arrived on the interface of this name.
    InInterface(String),
    /// Leaves by the interface of this name.
    OutInterface(String),
    /// Comes from this network.
    Source(IpNet),
    /// Comes from anywhere else.
    NotSource(IpNet),
    /// Goes to this network.
    Destination(IpNet),
    /// Goes anywhere else.
    NotDestination(IpNet),
    /// Goes to one of the ports `first..=last`.
    DestinationPort {
        /// The lowest port.
        first: u16,
        /// The highest port.
        last: u16,
    },
    /// Sent from a socket of this user.
    Uid(u32),
    /// Sent from a socket of another user.
    NotUid(u32),
    /// Carries this mark.
    Mark(u32),
    /// Carries another mark, or none.
    NotMark(u32),
    /// The destination was translated on the way (by any table).
    Translated,
    /// True for one connection in so many, at random; 0 counts as 1.
    OneIn(u32),
}

/// What a rule does with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leaves this hook as it is.
    Accept,
    /// Goes on after the jump that led here; in a hooked chain, as [`Action::Accept`].
    Return,
    /// Goes on in the chain of this name, which must not be hooked.
    Jump(String),
    /// Is delivered to this port of this machine.
    Redirect(u16),
    /// Is delivered to this address; the port stays when `port` is none.
    Dnat {
        /// The address, of the table's family.
        address: IpAddr,
        /// The port.
        port: Option<u16>,
    },
    /// Gets the address of the interface it leaves by as its source.
    Masquerade,
}

impl Table {
    /// A table without chains.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self {
            family,
            name: name.into(),
            chains: Vec::new(),
        }
    }

    /// Adds a chain that the kernel enters at `hook`, and returns it to be filled.
    pub fn hook(&mut self, name: impl Into<String>, hook: Hook) -> &mut Chain {
        self.add(Chain {
            name: name.into(),
            hook: Some(hook),
            rules: Vec::new(),
        })
    }

    /// Adds a chain that is entered by [`Action::Jump`] only, and returns it to be filled.
    pub fn chain(&mut self, name: impl Into<String>) -> &mut Chain {
        self.add(Chain {
            name: name.into(),
            hook: None,
            rules: Vec::new(),
        })
    }

    fn add(&mut self, chain: Chain) -> &mut Chain {
        let index = self.chains.len();
        self.chains.push(chain);
        &mut self.chains[index]
    }
}

impl Chain {
    /// Appends a rule.
    pub fn rule(&mut self, rule: Rule) -> &mut Self {
        self.rules.push(rule);
        self
    }

    /// Appends rules that spread connections evenly over `endpoints`, at random; none when there are no endpoints.
    pub fn dnat_one_of(&mut self, name: &str, matches: &[Match], endpoints: &[SocketAddr]) -> &mut Self {
        let mut left = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        for endpoint in endpoints {
            let mut matches = matches.to_vec();
            if left > 1 {
                matches.push(Match::OneIn(left));
            }
            left -= 1;
            let action = Action::Dnat {
                address: endpoint.ip(),
                port: Some(endpoint.port()),
            };
            self.rule(Rule::new(format!("{name} to {endpoint}"), matches, action));
        }
        self
    }
}

impl Rule {
    /// A rule.
    pub fn new(name: impl Into<String>, matches: Vec<Match>, action: Action) -> Self {
        Self {
            name: name.into(),
            matches,
            action,
        }
    }
}
