//! The certificate as files, for another proxy in the same pod: two secrets in the form in which Envoy reads SDS
//! from files (`path_config_source`).

use std::{
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use pem::Pem;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::{fs, io::AsyncWriteExt};

use super::IssueError;
use crate::{
    bootstrap::{TRUST_BUNDLE, WORKLOAD_CERTIFICATE},
    model::Certificate,
};

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// The key is for this user alone, who is the other proxy's too.
const MODE: u32 = 0o600;

/// A directory that another proxy reads `workload-cert.json` and `trust-bundle.json` from. It should be in memory:
/// the key is in it.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// Files in this directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Replaces both files, each at once: a reader sees the old or the new, and a certificate only with its key.
    ///
    /// # Errors
    /// When a file cannot be written; the old ones stay then.
    pub async fn write(
        &self,
        certificate: &Certificate,
        roots: &[CertificateDer<'static>],
    ) -> Result<(), IssueError> {
        let key = Pem::new("PRIVATE KEY", certificate.key.secret_der());
        let bundle = json!({ "trusted_ca": inline(&certificates(roots)) });
        let own = json!({
            "certificate_chain": inline(&certificates(&certificate.chain)),
            "private_key": inline(&pem::encode(&key)),
        });
        // A certificate of a new root is of use to those who trust that root, so the roots come first.
        self.replace(TRUST_BUNDLE, "validation_context", bundle).await?;
        self.replace(WORKLOAD_CERTIFICATE, "tls_certificate", own).await
    }

    async fn replace(&self, name: &str, field: &str, content: Value) -> Result<(), IssueError> {
        let path = self.directory.join(format!("{name}.json"));
        let text = json!({ "resources": [{ "@type": SECRET, "name": name, field: content }] }).to_string();
        let draft = self.directory.join(format!(".{name}.new"));
        write(&draft, &path, text.as_bytes())
            .await
            .map_err(|source| IssueError::Files {
                path: path.display().to_string(),
                source,
            })
    }
}

async fn write(draft: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    // One that a killed process left behind may be another user's.
    match fs::remove_file(draft).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(MODE);
    let mut file = fs::OpenOptions::from(options).open(draft).await?;
    file.write_all(text).await?;
    file.flush().await?;
    fs::rename(draft, path).await
}

fn inline(text: &str) -> Value {
    json!({ "inline_string": text })
}

fn certificates(chain: &[CertificateDer<'static>]) -> String {
    let pems = chain.iter().map(|one| Pem::new("CERTIFICATE", one.as_ref()));
    pem::encode_many(&pems.collect::<Vec<_>>())
}
