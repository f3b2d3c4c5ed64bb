//! Authorization: the rules of [`model::Rbac`](crate::model::Rbac) applied to what is known of a connection or
//! of a request on it, as Envoy's RBAC filters do. Pure; nothing is allocated unless the answer is no.

mod ambiguous;
mod matching;
mod request;
#[cfg(test)]
mod tests;

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

pub use ambiguous::ambiguity;
pub(crate) use matching::starts_with;
pub use matching::{header_matches, string_matches};
pub use request::Request;

use crate::{
    model::{Action, Permission, Policy, Principal, Rbac, StringMatcher},
    tls::PeerIdentity,
};

/// Policies named in the text of a denial; the rest are counted.
const NAMED_POLICIES: usize = 5;

/// What is known of a connection, and of a request on it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Who the client is, by its verified certificate.
    pub peer: Option<&'a PeerIdentity>,
    /// The client's address on the connection.
    pub source: IpAddr,
    /// The address that it wanted to reach.
    pub destination: SocketAddr,
    /// The SNI; empty when there was none.
    pub sni: &'a str,
    /// The request; `None` when the connection is decided on.
    pub request: Option<Request<'a>>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Go on.
    Allowed {
        /// The policy that matched; `None` when there are no rules or none had to match.
        policy: Option<&'a str>,
    },
    /// Refuse.
    Denied {
        /// Who asked and which policies there are, for the person who is refused and for the log.
        text: String,
    },
}

impl Decision<'_> {
    /// Whether it is a yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

/// Applies rules to facts. No rules allow everything.
pub fn decide<'a>(rules: Option<&'a Rbac>, facts: &Facts<'_>) -> Decision<'a> {
    let Some(rules) = rules else {
        return Decision::Allowed { policy: None };
    };
    let matched = rules
        .policies
        .iter()
        .find(|policy| policy_matches(policy, facts))
        .map(|policy| policy.name.as_str());
    match (rules.action, matched) {
        (Action::Allow, Some(_)) | (Action::Log, _) | (Action::Deny, None) => {
            Decision::Allowed { policy: matched }
        }
        (Action::Allow, None) => Decision::Denied {
            text: unmatched(rules, facts),
        },
        (Action::Deny, Some(policy)) => Decision::Denied {
            text: format!("{} is denied by policy {policy}", who(facts)),
        },
    }
}

/// Whether there can be a request of this client that the rules allow.
pub fn may_allow(rules: &Rbac, facts: &Facts<'_>) -> bool {
    rules.action != Action::Allow
        || rules
            .policies
            .iter()
            .flat_map(|policy| &policy.principals)
            .any(|principal| may_be(principal, facts, true))
}

/// Whether a principal comes out so for some request.
fn may_be(principal: &Principal, facts: &Facts<'_>, wanted: bool) -> bool {
    let may = |one: &Principal| may_be(one, facts, wanted);
    match principal {
        Principal::All(all) if wanted => all.iter().all(may),
        Principal::OneOf(any) if !wanted => any.iter().all(may),
        Principal::All(several) | Principal::OneOf(several) => several.iter().any(may),
        Principal::Not(not) => may_be(not, facts, !wanted),
        Principal::Header(_) | Principal::Path(_) => true,
        known => principal_matches(known, facts) == wanted,
    }
}

fn policy_matches(policy: &Policy, facts: &Facts<'_>) -> bool {
    policy
        .principals
        .iter()
        .any(|principal| principal_matches(principal, facts))
        && policy
            .permissions
            .iter()
            .any(|permission| permission_matches(permission, facts))
}

fn permission_matches(permission: &Permission, facts: &Facts<'_>) -> bool {
    match permission {
        Permission::Any(any) => *any,
        Permission::All(all) => all.iter().all(|one| permission_matches(one, facts)),
        Permission::OneOf(any) => any.iter().any(|one| permission_matches(one, facts)),
        Permission::Not(not) => !permission_matches(not, facts),
        Permission::Header(matcher) => facts
            .request
            .is_some_and(|request| header_matches(matcher, &request)),
        Permission::Path(matcher) => facts
            .request
            .is_some_and(|request| string_matches(matcher, request.path())),
        Permission::DestinationIp(net) => net.contains(&facts.destination.ip().to_canonical()),
        Permission::DestinationPort(port) => facts.destination.port() == *port,
        Permission::DestinationPorts(first, end) => {
            (*first..*end).contains(&u32::from(facts.destination.port()))
        }
        Permission::ServerName(matcher) => string_matches(matcher, facts.sni),
    }
}

fn principal_matches(principal: &Principal, facts: &Facts<'_>) -> bool {
    match principal {
        Principal::Any(any) => *any,
        Principal::All(all) => all.iter().all(|one| principal_matches(one, facts)),
        Principal::OneOf(any) => any.iter().any(|one| principal_matches(one, facts)),
        Principal::Not(not) => !principal_matches(not, facts),
        Principal::Authenticated(None) => facts.peer.is_some(),
        Principal::Authenticated(Some(name)) => facts.peer.is_some_and(|peer| peer_is(name, peer)),
        Principal::SourceIp(net) => net.contains(&facts.source.to_canonical()),
        Principal::Header(matcher) => facts
            .request
            .is_some_and(|request| header_matches(matcher, &request)),
        Principal::Path(matcher) => facts
            .request
            .is_some_and(|request| string_matches(matcher, request.path())),
    }
}

/// URI SANs count when there are any, else DNS SANs, else the subject.
fn peer_is(name: &StringMatcher, peer: &PeerIdentity) -> bool {
    let names = if peer.uris.is_empty() {
        &peer.dns
    } else {
        &peer.uris
    };
    if names.is_empty() {
        return string_matches(name, &peer.subject);
    }
    names.iter().any(|own| string_matches(name, own))
}

fn who(facts: &Facts<'_>) -> String {
    match facts.peer {
        Some(peer) => peer.label().to_owned(),
        None => format!("an unauthenticated client at {}", facts.source),
    }
}

fn unmatched(rules: &Rbac, facts: &Facts<'_>) -> String {
    let mut text = format!(
        "no policy allows {} to reach port {}",
        who(facts),
        facts.destination.port()
    );
    if rules.policies.is_empty() {
        text.push_str(": there are no policies for it");
        return text;
    }
    text.push_str(": asked ");
    for (index, policy) in rules.policies.iter().take(NAMED_POLICIES).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let _ = write!(text, "{separator}{}", policy.name);
    }
    if let Some(more) = rules
        .policies
        .len()
        .checked_sub(NAMED_POLICIES)
        .filter(|more| *more > 0)
    {
        let _ = write!(text, " and {more} more");
    }
    text
}
