//! Join tokens: what projected ServiceAccount tokens are in a cluster, without a cluster. A JWT (HS256) signed
//! with `join.key` of the state directory, with the claims of a Kubernetes token. Whoever plays the kubelet mints
//! them; the controller verifies.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::{self, BoxFuture};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use rand::RngCore as _;
use serde::{Deserialize, Serialize};

use super::{
    CertificateError, state,
    token::{TokenError, TokenIdentity, Verifier},
};

/// The audience of tokens that are shown to the controller.
pub const AUDIENCE: &str = "weir-controller";
/// The issuer, as the API server names itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const KEY_BYTES: usize = 32;

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// [`ISSUER`].
    pub iss: String,
    /// Holds [`AUDIENCE`].
    pub aud: Vec<String>,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
    /// When it ends, in seconds since 1970.
    pub exp: u64,
    /// When it was made, in seconds since 1970.
    pub iat: u64,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
}

/// What a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Namespace of the pod and ServiceAccount.
    pub namespace: String,
    /// The pod.
    pub pod: Object,
    /// The ServiceAccount.
    pub serviceaccount: Object,
}

/// A name, and a UID where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty when unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl Claims {
    /// The claims of a pod's token, valid from `now` for `lifetime`.
    pub fn for_pod(pod: &TokenIdentity, now: SystemTime, lifetime: Duration) -> Self {
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            iss: ISSUER.to_owned(),
            aud: vec![AUDIENCE.to_owned()],
            sub: subject(&pod.namespace, &pod.service_account),
            exp: (issued + lifetime).as_secs(),
            iat: issued.as_secs(),
            kubernetes: Bound {
                namespace: pod.namespace.clone(),
                pod: Object {
                    name: pod.pod.clone(),
                    uid: pod.pod_uid.clone(),
                },
                serviceaccount: Object {
                    name: pod.service_account.clone(),
                    uid: String::new(),
                },
            },
        }
    }
}

/// Signs claims.
///
/// # Errors
/// When the claims cannot be encoded.
pub fn mint(key: &[u8], claims: &Claims) -> Result<String, TokenError> {
    jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        claims,
        &EncodingKey::from_secret(key),
    )
    .map_err(|error| TokenError::Bad(error.to_string()))
}

/// Checks a token's signature, issuer, audience and end, and that it is bound to a pod.
///
/// # Errors
/// [`TokenError`].
pub fn verify(key: &[u8], token: &str) -> Result<TokenIdentity, TokenError> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = 0;
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[ISSUER]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    let claims = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(key), &validation)
        .map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => TokenError::Expired,
            ErrorKind::InvalidAudience => TokenError::WrongAudience,
            _ => TokenError::Bad(error.to_string()),
        })?
        .claims;
    let bound = claims.kubernetes;
    if claims.sub != subject(&bound.namespace, &bound.serviceaccount.name) {
        return Err(TokenError::Bad(
            "its subject is not the ServiceAccount it is bound to".to_owned(),
        ));
    }
    if bound.pod.uid.is_empty() {
        return Err(TokenError::Bad("it is not bound to a pod".to_owned()));
    }
    Ok(TokenIdentity {
        namespace: bound.namespace,
        service_account: bound.serviceaccount.name,
        pod: bound.pod.name,
        pod_uid: bound.pod.uid,
    })
}

/// The key in `join.key` of the state directory, made if it is not there.
///
/// # Errors
/// When the file cannot be read or made, or is shorter than 32 bytes.
pub fn load_or_create_key(state_dir: &Path) -> Result<Vec<u8>, CertificateError> {
    state::ensure_directory(state_dir)?;
    let path = state_dir.join("join.key");
    let key = match state::read(&path)? {
        Some(key) => {
            state::check_private(&path);
            key
        }
        None => {
            let mut key = vec![0; KEY_BYTES];
            rand::rng().fill_bytes(&mut key);
            state::create_once(&path, &key)?
        }
    };
    if key.len() < KEY_BYTES {
        return Err(CertificateError::JoinKey {
            path: path.display().to_string(),
            bytes: key.len(),
        });
    }
    Ok(key)
}

/// Verifies join tokens.
pub struct JoinTokens {
    key: Vec<u8>,
}

impl JoinTokens {
    /// With the key of [`load_or_create_key`].
    pub fn new(key: Vec<u8>) -> Self {
        Self { key }
    }
}

impl Verifier for JoinTokens {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenIdentity, TokenError>> {
        Box::pin(future::ready(verify(&self.key, token)))
    }
}

fn subject(namespace: &str, service_account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{service_account}")
}
