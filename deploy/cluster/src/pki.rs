//! The certificates of a cluster: one root, a serving certificate, and a client certificate with a kubeconfig for each
//! of its programs. Files in one directory; valid for a day.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;

/// How long the certificates are valid; no test takes longer.
const VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates are valid a little before they are made.
const BACKDATE: Duration = Duration::from_secs(60);

/// A certificate and its private key, as PEM files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A root and what it signs.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    root: Pair,
}

impl Pki {
    /// Makes a root in a directory of its own, and a key for ServiceAccount tokens.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn create(directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let key = KeyPair::generate()?;
        let mut root = parameters("weir-test-root", None)?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = root.self_signed(&key)?;
        let pair = write_pair(directory, "ca", &certificate.pem(), &key)?;
        let tokens = KeyPair::generate()?;
        write(&directory.join("tokens.key"), &tokens.serialize_pem())?;
        write(&directory.join("tokens.pub"), &tokens.public_key_pem())?;
        Ok(Self {
            directory: directory.to_owned(),
            issuer: Issuer::new(root, key),
            root: pair,
        })
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Pair {
        &self.root
    }

    /// The private key that signs ServiceAccount tokens.
    #[must_use]
    pub fn token_key(&self) -> PathBuf {
        self.directory.join("tokens.key")
    }

    /// The public key of [`Pki::token_key`].
    #[must_use]
    pub fn token_public_key(&self) -> PathBuf {
        self.directory.join("tokens.pub")
    }

    /// A certificate for a server of these names and addresses.
    ///
    /// # Errors
    /// When a name is none, or the files cannot be written.
    pub fn server(&self, name: &str, names: &[&str]) -> anyhow::Result<Pair> {
        let mut server = parameters(name, None)?;
        server.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(ip) => Ok(SanType::IpAddress(ip)),
                Err(_) => Ok(SanType::DnsName((*name).try_into()?)),
            })
            .collect::<Result<_, rcgen::Error>>()?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(name, &server)
    }

    /// A certificate for a client: `user` of `group`, as Kubernetes reads the subject.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn client(&self, name: &str, user: &str, group: Option<&str>) -> anyhow::Result<Pair> {
        let mut client = parameters(user, group)?;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, &client)
    }

    /// A kubeconfig with a client certificate in it, usable anywhere that `server` (a URL) is reachable from.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn kubeconfig(&self, name: &str, server: &str, client: &Pair) -> anyhow::Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "weir-test",
            "clusters": [{"name": "weir-test", "cluster": {
                "server": server,
                "certificate-authority": self.root.certificate,
            }}],
            "users": [{"name": "weir-test", "user": {
                "client-certificate": client.certificate,
                "client-key": client.key,
            }}],
            "contexts": [{"name": "weir-test", "context": {"cluster": "weir-test", "user": "weir-test"}}],
        });
        let path = self.directory.join(format!("{name}.kubeconfig"));
        write(&path, &config.to_string())?;
        Ok(path)
    }

    fn sign(&self, name: &str, parameters: &CertificateParams) -> anyhow::Result<Pair> {
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        write_pair(&self.directory, name, &certificate.pem(), &key)
    }
}

fn parameters(user: &str, group: Option<&str>) -> anyhow::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, user);
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    parameters.distinguished_name = subject;
    let now = SystemTime::now();
    parameters.not_before = (now - BACKDATE).into();
    parameters.not_after = (now + VALIDITY).into();
    Ok(parameters)
}

fn write_pair(directory: &Path, name: &str, certificate: &str, key: &KeyPair) -> anyhow::Result<Pair> {
    let pair = Pair {
        certificate: directory.join(format!("{name}.crt")),
        key: directory.join(format!("{name}.key")),
    };
    write(&pair.certificate, certificate)?;
    write(&pair.key, &key.serialize_pem())?;
    Ok(pair)
}

/// Writes a file that only its owner reads.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
