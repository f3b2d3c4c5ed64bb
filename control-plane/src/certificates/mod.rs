//! The certificate manager: who may have a certificate of the mesh, and which roots everybody trusts.
//!
//! A proxy makes its own key and asks `service` to sign it, proving its ServiceAccount with a token that a
//! [`Verifier`] checks. An [`Issuer`] signs: today the built-in one, [`BuiltIn`], whose root lives in the state
//! directory or, in a cluster, in a Secret ([`root_secret`]). [`Serving`] keeps the controller's own certificate fresh,
//! [`ca_bundle`] tells the API server by which roots to know it. No private key of a workload is ever seen here.

mod built_in;
pub mod ca_bundle;
mod csr;
pub mod join_token;
mod object_watch;
pub mod root_secret;
mod service;
mod serving;
mod state;
#[cfg(test)]
mod tests;
mod token;
mod token_review;

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;

pub use built_in::BuiltIn;
pub use service::{Metrics, Signing};
pub use serving::Serving;
pub use token::{TokenError, TokenIdentity, Verifier};
pub use token_review::TokenReviews;

/// The shortest validity a certificate is issued for.
pub const VALIDITY_FLOOR: Duration = Duration::from_secs(5);
/// The name the controller answers to; proxies check it.
pub const CONTROLLER_SERVICE: &str = "weir-controller";

/// What a certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// ServiceAccount of the pod.
    pub service_account: String,
}

impl Identity {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub fn uri(&self) -> String {
        format!(
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }

    /// `<service account>.<namespace>.<trust domain>`; `None` for an account with a dot in its name. That could spell
    /// the name of someone else: the account `weir-controller.weir-system` of a namespace `svc` the controller's.
    pub fn dns_name(&self) -> Option<String> {
        let Self {
            trust_domain,
            namespace,
            service_account,
        } = self;
        (!service_account.contains('.')).then(|| format!("{service_account}.{namespace}.{trust_domain}"))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri())
    }
}

/// Who a certificate is for.
#[derive(Clone, Debug)]
pub enum Profile {
    /// A sidecar.
    Workload {
        /// Its ServiceAccount.
        identity: Identity,
        /// Its pod's UID: the subject's common name.
        pod_uid: String,
    },
    /// A server of the control plane.
    Server {
        /// Its names; the first is the common name too.
        dns_names: Vec<String>,
    },
}

/// A public key to be certified.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    /// DER SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// Who it belongs to.
    pub profile: Profile,
    /// For how long; never beyond the root's own end.
    pub validity: Duration,
}

/// Signs public keys: the built-in root here, or a certificate authority elsewhere.
pub trait Issuer: Send + Sync + 'static {
    /// The PEM chain for the key: leaf first, then intermediates if any, then the root.
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<Vec<String>, CertificateError>>;

    /// The roots that everybody trusts, and their changes.
    fn trust(&self) -> watch::Receiver<Arc<TrustBundle>>;
}

/// The roots of the mesh. More than one while a root is being rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    pem: String,
    roots: Vec<CertificateDer<'static>>,
}

impl TrustBundle {
    /// Reads concatenated PEM certificates.
    ///
    /// # Errors
    /// When there is none, or one does not parse.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        let roots = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CertificateError::Root(error.to_string()))?;
        if roots.is_empty() {
            return Err(CertificateError::Root("no CERTIFICATE block".to_owned()));
        }
        Ok(Self {
            pem: pem.to_owned(),
            roots,
        })
    }

    /// The PEM text.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificates.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }
}

/// What went wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file of the state directory.
    #[error("{action} {path}: {source}; --state-dir must be a directory that this process may write")]
    State {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The root certificate.
    #[error("ca.crt: {0}; restore it together with ca.key, or remove both to make a new root")]
    Root(String),
    /// The root key.
    #[error("ca.key: {0}; restore it together with ca.crt, or remove both to make a new root")]
    RootKey(String),
    /// `ca.crt` is there and `ca.key` is not.
    #[error("{path} is missing but ca.crt exists; restore the key, or remove ca.crt to make a new root")]
    KeyMissing {
        /// Where the key should be.
        path: String,
    },
    /// The key of join tokens.
    #[error("{path} holds {bytes} bytes, at least 32 are needed; remove it to make a new one")]
    JoinKey {
        /// Where it is.
        path: String,
        /// How long it is.
        bytes: usize,
    },
    /// The Secret that holds the root.
    #[error("Secret {namespace}/{name}: {problem}", name = root_secret::NAME)]
    Secret {
        /// Its namespace.
        namespace: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A signature could not be made.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
    /// The root has ended.
    #[error("the root certificate has expired; remove ca.key and ca.crt to make a new root")]
    RootExpired,
    /// rustls refused a key or root.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}
