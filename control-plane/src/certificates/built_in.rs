//! The built-in certificate authority: one ECDSA P-256 root, kept in the state directory or in a Secret.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::future::{self, BoxFuture};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SubjectPublicKeyInfo,
};
use tokio::sync::watch;
use tracing::info;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CertificateError, Issuer, Profile, SigningRequest, TrustBundle, VALIDITY_FLOOR, state};

const ROOT_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Clocks of nodes differ: a certificate is valid a little before it is made.
const BACKDATE: Duration = Duration::from_secs(30);

/// The built-in certificate authority.
pub struct BuiltIn {
    issuer: rcgen::Issuer<'static, KeyPair>,
    root_pem: String,
    root_ends: SystemTime,
    trust: watch::Sender<Arc<TrustBundle>>,
}

impl BuiltIn {
    /// Reads `ca.key` and `ca.crt` from the directory, or makes them. The first certificate of `ca.crt` is the
    /// one that signs; others are trusted besides.
    ///
    /// # Errors
    /// When a file cannot be read, made or understood.
    pub fn open(state_dir: &Path) -> Result<Self, CertificateError> {
        state::ensure_directory(state_dir)?;
        let key_path = state_dir.join("ca.key");
        let certificate_path = state_dir.join("ca.crt");
        let existing = state::read(&certificate_path)?;
        let key_pem = match state::read(&key_path)? {
            Some(content) => {
                state::check_private(&key_path);
                content
            }
            None if existing.is_some() => {
                return Err(CertificateError::KeyMissing {
                    path: key_path.display().to_string(),
                });
            }
            None => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                state::create_once(&key_path, key.serialize_pem().as_bytes())?
            }
        };
        let key = key_pair(&key_pem)?;
        let certificate = match existing {
            Some(content) => content,
            None => {
                let root = root_parameters(SystemTime::now()).self_signed(&key)?;
                info!(path = %certificate_path.display(), "made a new root certificate");
                state::create_once(&certificate_path, root.pem().as_bytes())?
            }
        };
        let pem =
            String::from_utf8(certificate).map_err(|error| CertificateError::Root(error.to_string()))?;
        Self::new(key, &pem)
    }

    /// From a key and certificates that are kept elsewhere.
    pub(super) fn from_pem(key: &[u8], bundle: &[u8]) -> Result<Self, CertificateError> {
        let bundle =
            std::str::from_utf8(bundle).map_err(|error| CertificateError::Root(error.to_string()))?;
        Self::new(key_pair(key)?, bundle)
    }

    fn new(key: KeyPair, bundle_pem: &str) -> Result<Self, CertificateError> {
        let bundle = TrustBundle::from_pem(bundle_pem)?;
        let [root, ..] = bundle.roots() else {
            return Err(CertificateError::Root("no CERTIFICATE block".to_owned()));
        };
        let (_, parsed) =
            X509Certificate::from_der(root).map_err(|error| CertificateError::Root(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != rcgen::PublicKeyData::der_bytes(&key) {
            return Err(CertificateError::RootKey("is not the key of ca.crt".to_owned()));
        }
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let root_pem = pem_block(root);
        Ok(Self {
            issuer: rcgen::Issuer::from_ca_cert_der(root, key)
                .map_err(|error| CertificateError::Root(error.to_string()))?,
            root_pem,
            root_ends: SystemTime::UNIX_EPOCH + Duration::from_secs(ends),
            trust: watch::Sender::new(Arc::new(bundle)),
        })
    }

    /// Replaces the set of trusted roots; the signing root must be among them.
    ///
    /// # Errors
    /// When the signing root is not among them.
    pub fn set_trust(&self, bundle: TrustBundle) -> Result<(), CertificateError> {
        let own = TrustBundle::from_pem(&self.root_pem)?;
        if !own.roots().iter().all(|root| bundle.roots().contains(root)) {
            return Err(CertificateError::Root(
                "the signing root is missing from the new trust bundle".to_owned(),
            ));
        }
        self.trust.send_replace(Arc::new(bundle));
        Ok(())
    }

    fn sign_at(&self, request: &SigningRequest, now: SystemTime) -> Result<Vec<String>, CertificateError> {
        let ends = (now + request.validity.max(VALIDITY_FLOOR)).min(self.root_ends);
        if ends <= now {
            return Err(CertificateError::RootExpired);
        }
        let mut parameters = leaf_parameters(&request.profile)?;
        parameters.not_before = (now - BACKDATE).into();
        parameters.not_after = ends.into();
        let public_key = SubjectPublicKeyInfo::from_der(&request.public_key)?;
        let leaf = parameters.signed_by(&public_key, &self.issuer)?;
        Ok(vec![leaf.pem(), self.root_pem.clone()])
    }
}

impl Issuer for BuiltIn {
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<Vec<String>, CertificateError>> {
        Box::pin(future::ready(self.sign_at(&request, SystemTime::now())))
    }

    fn trust(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.trust.subscribe()
    }
}

/// A new root: the PEM of its key and of its certificate.
pub(super) fn generate() -> Result<(String, String), CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let root = root_parameters(SystemTime::now()).self_signed(&key)?;
    Ok((key.serialize_pem(), root.pem()))
}

fn key_pair(pem: &[u8]) -> Result<KeyPair, CertificateError> {
    let text = std::str::from_utf8(pem).map_err(|error| CertificateError::RootKey(error.to_string()))?;
    KeyPair::from_pem(text).map_err(|error| CertificateError::RootKey(error.to_string()))
}

fn pem_block(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let body = STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn root_parameters(now: SystemTime) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name("Weir root");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.not_before = (now - BACKDATE).into();
    parameters.not_after = (now + ROOT_VALIDITY).into();
    parameters
}

fn leaf_parameters(profile: &Profile) -> Result<CertificateParams, CertificateError> {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    match profile {
        Profile::Workload { identity, pod_uid } => {
            parameters.distinguished_name = name(pod_uid);
            parameters.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
            if let Some(dns_name) = identity.dns_name() {
                parameters
                    .subject_alt_names
                    .push(SanType::DnsName(dns_name.try_into()?));
            }
            parameters.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
        }
        Profile::Server { dns_names } => {
            parameters.distinguished_name = name(dns_names.first().map_or(super::CONTROLLER_SERVICE, |n| n));
            for dns_name in dns_names {
                parameters
                    .subject_alt_names
                    .push(SanType::DnsName(dns_name.as_str().try_into()?));
            }
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
    }
    Ok(parameters)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Weir");
    name.push(DnType::CommonName, common);
    name
}
