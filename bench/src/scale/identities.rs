//! Certificates of the sidecars, signed with the controller's root ahead of time. They share one key: what that saves
//! here is nothing that a controller does.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context as _;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType,
};
use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};

use super::layout::Layout;

/// Signs for the sidecars of one controller.
pub(super) struct Identities {
    issuer: Issuer<'static, KeyPair>,
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
}

impl Identities {
    /// With the root of a controller's state directory.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub(super) fn in_directory(state: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = state.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Self::new(&read("ca.key")?, &read("ca.crt")?)
    }

    /// With a root's key and certificate, as PEM.
    ///
    /// # Errors
    /// When they cannot be used.
    pub(super) fn new(ca_key: &str, ca_certificate: &str) -> anyhow::Result<Self> {
        let issuer = Issuer::from_ca_cert_pem(ca_certificate, KeyPair::from_pem(ca_key)?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_certificate.as_bytes())?)?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let key = KeyPair::generate()?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = provider.key_provider.load_private_key(der)?;
        Ok(Self {
            issuer,
            provider,
            verifier,
            key,
            signing,
        })
    }

    /// How the sidecar of a pod connects.
    ///
    /// # Errors
    /// When its certificate cannot be signed.
    pub(super) fn sidecar(
        &self,
        layout: &Layout,
        pod: usize,
        uid: &str,
    ) -> anyhow::Result<Arc<ClientConfig>> {
        let app = layout.app_of_pod(pod);
        let (namespace, account) = (layout.namespace(app), layout.app_name(app));
        let mut parameters = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, uid);
        parameters.distinguished_name = subject;
        let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        parameters.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = parameters.signed_by(&self.key, &self.issuer)?;
        let key = CertifiedKey::new(vec![leaf.der().clone()], self.signing.clone());
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(self.verifier.clone())
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A proxy makes a new configuration for each connection, too.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}
