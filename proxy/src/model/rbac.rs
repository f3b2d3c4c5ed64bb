//! Authorization rules, after `envoy.config.rbac.v3`.

use ipnet::IpNet;

use super::{HeaderMatcher, StringMatcher};

/// A set of named policies with one action. `None` where a filter has no rules at all (allow everything);
/// an [`Rbac`] without policies and with [`Action::Allow`] denies everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Rbac {
    /// What a matching policy means.
    pub action: Action,
    /// Policies, in name order.
    pub policies: Vec<Policy>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Allowed if any policy matches, else denied.
    Allow,
    /// Denied if any policy matches, else allowed.
    Deny,
    /// Never denies; a match is only reported.
    Log,
}

/// Matches when one permission and one principal match.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The object that asked for it, `namespace/name` of a TrafficTarget.
    pub name: String,
    /// What is done; any one suffices.
    pub permissions: Vec<Permission>,
    /// Who does it; any one suffices.
    pub principals: Vec<Principal>,
}

/// A condition on what is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Permission {
    /// Everything (`true`) or nothing.
    Any(bool),
    /// All of them.
    All(Vec<Permission>),
    /// One of them.
    OneOf(Vec<Permission>),
    /// Not this.
    Not(Box<Permission>),
    /// A request header.
    Header(HeaderMatcher),
    /// The path without its query.
    Path(StringMatcher),
    /// The local address.
    DestinationIp(IpNet),
    /// The local port.
    DestinationPort(u16),
    /// The local port, first and one past the last.
    DestinationPorts(u32, u32),
    /// The SNI.
    ServerName(StringMatcher),
}

/// A condition on who asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Principal {
    /// Anyone (`true`) or no one.
    Any(bool),
    /// All of them.
    All(Vec<Principal>),
    /// One of them.
    OneOf(Vec<Principal>),
    /// Not this.
    Not(Box<Principal>),
    /// A peer with a verified certificate; with a matcher, one of its URI SANs, else of its DNS SANs, else its
    /// subject matches.
    Authenticated(Option<StringMatcher>),
    /// The peer's address on the connection.
    SourceIp(IpNet),
    /// A request header.
    Header(HeaderMatcher),
    /// The path without its query.
    Path(StringMatcher),
}
