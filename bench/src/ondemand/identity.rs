//! Certificates of the sidecar and of the servers, signed with the controller's root.

use std::{fs, path::Path};

use anyhow::Context as _;
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::scale::layout::Layout;

/// Signs for one mesh.
pub(super) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    /// The root, PEM.
    pub(super) root: String,
}

/// A certificate and its key.
pub(super) struct Identity {
    certificate: rcgen::Certificate,
    key: String,
    key_der: Vec<u8>,
}

impl Signer {
    /// With the root in a controller's state directory.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub(super) fn in_directory(state: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = state.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let root = read("ca.crt")?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&root, KeyPair::from_pem(&read("ca.key")?)?)?,
            key: KeyPair::generate()?,
            root,
        })
    }

    /// That of an app, as the sidecar of one of its pods has it.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub(super) fn sign(&self, layout: &Layout, app: usize, pod: usize) -> anyhow::Result<Identity> {
        let (namespace, account) = (layout.namespace(app), layout.app_name(app));
        let mut parameters = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, layout.pod_uid(pod));
        parameters.distinguished_name = subject;
        let uri = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        parameters.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        Ok(Identity {
            certificate: parameters.signed_by(&self.key, &self.issuer)?,
            key: self.key.serialize_pem(),
            key_der: self.key.serialize_der(),
        })
    }
}

impl Identity {
    /// The certificate, PEM.
    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Its key, PEM.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Both, for rustls.
    pub(super) fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key_der.clone());
        (vec![self.certificate.der().clone()], key.into())
    }
}
