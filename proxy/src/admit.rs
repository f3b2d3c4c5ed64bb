//! Whether a connection or a request is let in: the rules of its chain applied to what is known of its client.

use std::sync::Arc;

use crate::{
    chain,
    model::{FilterChain, Network, Rbac},
    policy::{self, Decision, Facts},
    reason::Reason,
    tls::PeerIdentity,
};

/// Why a connection or a request is not let in.
#[derive(Debug)]
pub struct Denied {
    /// The reason.
    pub reason: Reason,
    /// Who was denied, and by which rules.
    pub text: String,
}

/// Applies the network filters of a chain.
///
/// # Errors
/// When one of them refuses the connection.
pub fn admit(chain: &FilterChain, facts: &chain::Facts, peer: Option<&PeerIdentity>) -> Result<(), Denied> {
    for filter in &chain.network {
        if let Network::Rbac(Some(rules)) = filter {
            decide(rules, &facts_of(facts, peer, None), Reason::RbacConnection)?;
        }
    }
    Ok(())
}

/// Applies the rules of a route, or of the listener where the route has none of its own.
///
/// # Errors
/// When they deny the request.
pub fn admit_request(
    rules: Option<&Option<Arc<Rbac>>>,
    facts: &chain::Facts,
    peer: Option<&PeerIdentity>,
    request: policy::Request<'_>,
) -> Result<(), Denied> {
    match rules {
        Some(Some(rules)) => decide(rules, &facts_of(facts, peer, Some(request)), Reason::RbacRequest),
        _ => Ok(()),
    }
}

fn facts_of<'a>(
    facts: &'a chain::Facts,
    peer: Option<&'a PeerIdentity>,
    request: Option<policy::Request<'a>>,
) -> Facts<'a> {
    Facts {
        peer,
        source: facts.source.ip(),
        destination: facts.destination,
        sni: &facts.hello.sni,
        request,
    }
}

fn decide(rules: &Rbac, facts: &Facts<'_>, reason: Reason) -> Result<(), Denied> {
    match policy::decide(Some(rules), facts) {
        Decision::Allowed { .. } => Ok(()),
        Decision::Denied { text } => Err(Denied { reason, text }),
    }
}
