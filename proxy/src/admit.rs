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
/// When they deny the request, or when there are rules and the application may read the request as another.
pub fn admit_request(
    rules: Option<&Option<Arc<Rbac>>>,
    facts: &chain::Facts,
    peer: Option<&PeerIdentity>,
    request: policy::Request<'_>,
) -> Result<(), Denied> {
    match rules {
        Some(Some(rules)) => {
            if let Some(why) = policy::ambiguity(&request) {
                return Err(Denied {
                    reason: Reason::RbacRequest,
                    text: format!("the request has more than one reading: {why}"),
                });
            }
            decide(rules, &facts_of(facts, peer, Some(request)), Reason::RbacRequest)
        }
        _ => Ok(()),
    }
}

/// Whether the rules of a route, or of the listener where the route has none of its own, can let in any request of
/// this client.
pub fn may_admit(
    rules: Option<&Option<Arc<Rbac>>>,
    facts: &chain::Facts,
    peer: Option<&PeerIdentity>,
) -> bool {
    match rules {
        Some(Some(rules)) => policy::may_allow(rules, &facts_of(facts, peer, None)),
        _ => true,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Permission, Policy, Principal};

    #[test]
    fn rules_do_not_allow_what_they_cannot_read() {
        let rules = Rbac {
            action: Action::Allow,
            policies: vec![Policy {
                name: "everyone".to_owned(),
                permissions: vec![Permission::Any(true)],
                principals: vec![Principal::Any(true)],
            }],
        };
        let address = ([10, 0, 0, 1], 80).into();
        let facts = chain::Facts::new(address, address, None);
        let asked = |target: &str, rules| {
            let request = http::Request::builder()
                .uri(target)
                .body(())
                .map_err(|_| "no URI");
            let request = request.as_ref().map(policy::Request::of);
            request.is_ok_and(|request| admit_request(rules, &facts, None, request).is_ok())
        };
        let rules = Some(Arc::new(rules));
        assert!(asked("/public/a", Some(&rules)));
        assert!(!asked("/public/../admin", Some(&rules)));
        assert!(asked("/public/../admin", Some(&None)));
        assert!(asked("/public/../admin", None));
    }
}
