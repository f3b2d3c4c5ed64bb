//! The controller's own certificate: made at start, made again long before it ends, with the trust bundle that
//! client certificates are checked against. It serves sidecars, and the API server that calls the webhooks.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{CONTROLLER_SERVICE, CertificateError, Issuer, Profile, SigningRequest, TrustBundle};

const VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);
const RETRY: Duration = Duration::from_secs(10);

/// The TLS configurations of the controller's listeners, always with a valid certificate.
pub struct Serving {
    issuer: Arc<dyn Issuer>,
    dns_names: Vec<String>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Configs>,
    /// Subscribed before the first certificate was made, so that no change of roots is missed.
    trust: watch::Receiver<Arc<TrustBundle>>,
}

/// One certificate, for two kinds of clients.
struct Configs {
    sidecars: Arc<ServerConfig>,
    webhooks: Arc<ServerConfig>,
}

impl Serving {
    /// Makes the first certificate, for the controller's Service in `namespace` and for `localhost`.
    ///
    /// # Errors
    /// When it cannot be signed, or TLS cannot use it.
    pub async fn new(issuer: Arc<dyn Issuer>, namespace: &str) -> Result<Self, CertificateError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let dns_names = dns_names(namespace);
        let trust = issuer.trust();
        let first = make(&*issuer, &dns_names, &provider).await?;
        Ok(Self {
            issuer,
            dns_names,
            provider,
            current: ArcSwap::from_pointee(first),
            trust,
        })
    }

    /// What a sidecar's connection accepted now should use.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load().sidecars.clone()
    }

    /// What a connection of the API server accepted now should use: it is not asked for a certificate.
    pub fn webhook_config(&self) -> Arc<ServerConfig> {
        self.current.load().webhooks.clone()
    }

    /// Renews at half of the validity, and when the trust bundle changes, until told to stop.
    pub async fn keep_fresh(&self, stop: CancellationToken) {
        let mut trust = self.trust.clone();
        let mut renew_at = Instant::now() + VALIDITY / 2;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(renew_at) => {}
                changed = trust.changed() => if changed.is_err() { return },
            }
            renew_at = Instant::now()
                + match make(&*self.issuer, &self.dns_names, &self.provider).await {
                    Ok(configs) => {
                        self.current.store(Arc::new(configs));
                        info!("renewed the controller's certificate");
                        VALIDITY / 2
                    }
                    Err(error) => {
                        warn!(%error, "cannot renew the controller's certificate; trying again in 10 s");
                        RETRY
                    }
                };
        }
    }
}

fn dns_names(namespace: &str) -> Vec<String> {
    vec![
        format!("{CONTROLLER_SERVICE}.{namespace}.svc.cluster.local"),
        format!("{CONTROLLER_SERVICE}.{namespace}.svc"),
        format!("{CONTROLLER_SERVICE}.{namespace}"),
        "localhost".to_owned(),
    ]
}

async fn make(
    issuer: &dyn Issuer,
    dns_names: &[String],
    provider: &Arc<CryptoProvider>,
) -> Result<Configs, CertificateError> {
    let key = KeyPair::generate()?;
    let chain = issuer
        .sign(SigningRequest {
            public_key: key.subject_public_key_info(),
            profile: Profile::Server {
                dns_names: dns_names.to_vec(),
            },
            validity: VALIDITY,
        })
        .await?;
    let trust = issuer.trust().borrow().clone();
    configs(&chain, &key, &trust, provider).map_err(|error| CertificateError::Tls(error.to_string()))
}

fn configs(
    chain: &[String],
    key: &KeyPair,
    trust: &TrustBundle,
    provider: &Arc<CryptoProvider>,
) -> Result<Configs, Box<dyn std::error::Error + Send + Sync>> {
    let chain = CertificateDer::pem_slice_iter(chain.concat().as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut roots = RootCertStore::empty();
    for root in trust.roots() {
        roots.add(root.clone())?;
    }
    // A proxy without a certificate yet must reach the signing service; the xDS service asks for one itself.
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let versions =
        || ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();

    let mut sidecars = versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), key.clone_key())?;
    sidecars.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would carry on with a client certificate that has ended since.
    sidecars.session_storage = Arc::new(NoServerSessionStorage {});
    sidecars.send_tls13_tickets = 0;

    let mut webhooks = versions()?.with_no_client_auth().with_single_cert(chain, key)?;
    webhooks.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Configs {
        sidecars: Arc::new(sidecars),
        webhooks: Arc::new(webhooks),
    })
}
