//! Proof of who asks for a certificate.

use futures::future::BoxFuture;

/// The pod that a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIdentity {
    /// Namespace.
    pub namespace: String,
    /// ServiceAccount.
    pub service_account: String,
    /// Pod name.
    pub pod: String,
    /// Pod UID.
    pub pod_uid: String,
}

/// Checks tokens: a signature of our own for the files provider, the API server's TokenReview in a cluster.
pub trait Verifier: Send + Sync + 'static {
    /// Whose token this is.
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenIdentity, TokenError>>;
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this cluster, or not bound to a pod.
    #[error("the token is not valid: {0}")]
    Bad(String),
    /// Its time is over.
    #[error("the token has expired; the kubelet should have replaced it")]
    Expired,
    /// It was made for someone else to read.
    #[error("the token's audience is not {:?}", super::join_token::AUDIENCE)]
    WrongAudience,
    /// Nobody could say whose it is.
    #[error("the token cannot be checked now: {0}; try again")]
    Unavailable(String),
}
