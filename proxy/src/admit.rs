//! Whether a connection or a request is let in: the rules of its chain applied to what is known of its client.

use crate::{
    chain::Facts,
    http::{Body, Session, rescue::Refusal},
    model::{FilterChain, Network, Rbac},
    reason::Reason,
    tls::PeerIdentity,
};
use std::sync::Arc;

/// Why a connection is not let in.
#[derive(Debug)]
pub struct Denied {
    /// The reason.
    pub reason: Reason,
    /// Which rules denied it, for the log.
    pub text: String,
}

/// Applies the network filters of a chain.
///
/// # Errors
/// When one of them refuses the connection.
pub fn admit(chain: &FilterChain, _facts: &Facts, _peer: Option<&PeerIdentity>) -> Result<(), Denied> {
    for filter in &chain.network {
        if let Network::Rbac(Some(_)) = filter {
            return Err(Denied {
                reason: Reason::RbacConnection,
                text: format!("the rules of {} cannot be evaluated", chain.name),
            });
        }
    }
    Ok(())
}

/// Applies the rules of a route, or of the listener where the route has none of its own.
///
/// # Errors
/// When they deny the request.
pub fn admit_request(
    _session: &Session,
    _request: &http::Request<Body>,
    rules: Option<&Option<Arc<Rbac>>>,
) -> Result<(), Refusal> {
    match rules {
        Some(Some(_)) => Err(Refusal::new(Reason::RbacRequest, "RBAC: access denied")),
        _ => Ok(()),
    }
}
