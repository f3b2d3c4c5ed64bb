//! Keeps a signed certificate in the store.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use tokio::{
    select,
    sync::watch,
    time::{sleep, timeout},
};
use tonic::metadata::{Ascii, MetadataValue};
use tracing::{error, info, warn};
use weir_xds::istio::v1::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};

use super::{
    Credentials, Details, Files, IssueError, Status, authority, connector,
    request::{Request, Signed},
    schedule::{pause, renewal},
};
use crate::{
    bootstrap::{TRUST_BUNDLE, WORKLOAD_CERTIFICATE},
    model::{Certificate, Cluster, Secret, TrustBundle},
    net::Dialer,
    tls,
    xds::{Connect, State, Store, Watched, channel},
};

/// How long one attempt may take, the connection included.
const ATTEMPT: Duration = Duration::from_secs(15);
/// When the roots changed so that our certificate is of no use, renewals of the mesh spread over this long.
const SPREAD: Duration = Duration::from_secs(2);

/// Makes keys, has them signed by the control plane, and publishes the certificates as `workload-cert`. The key
/// is held in memory only, unless another proxy is [served](Agent::serving).
pub struct Agent {
    token_path: PathBuf,
    authority: String,
    connect: Connect,
    store: Store,
    roots: Watched<Secret>,
    status: watch::Sender<Status>,
    files: Option<Files>,
}

impl Agent {
    /// An agent that asks the signer at this cluster, with the token in this file.
    pub fn new(cluster: &Arc<Cluster>, token_path: PathBuf, store: &Store, dialer: Dialer) -> Self {
        store.reserve::<Secret>(WORKLOAD_CERTIFICATE);
        Self {
            token_path,
            authority: authority(cluster),
            connect: connector(cluster, Credentials::Token, store, dialer),
            roots: store.watch(TRUST_BUNDLE),
            store: store.clone(),
            status: watch::Sender::default(),
            files: None,
        }
    }

    /// Hands each certificate to the proxy beside this one. Nothing tells that one's agent of new roots but what
    /// the signer sends along, so those are trusted too from then on.
    #[must_use]
    pub fn serving(self, files: Files) -> Self {
        Self {
            files: Some(files),
            ..self
        }
    }

    /// How it fares, for metrics and the admin page.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Obtains and renews for ever.
    pub async fn run(mut self) {
        let mut failures: u32 = 0;
        loop {
            match timeout(ATTEMPT, self.obtain())
                .await
                .unwrap_or(Err(IssueError::Timeout(ATTEMPT)))
            {
                Ok((certificate, details)) => {
                    failures = 0;
                    let remaining = details.remaining(SystemTime::now());
                    let wait = renewal(remaining, rand::random());
                    self.publish(&certificate, details, wait);
                    select! {
                        () = sleep(wait) => {}
                        () = distrusted(&mut self.roots, &certificate) => {
                            info!("the trust bundle has no root of our certificate any more: renewing now");
                            sleep(SPREAD.mul_f64(rand::random())).await;
                        }
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let wait = pause(failures, rand::random());
                    self.failed(&error, wait);
                    sleep(wait).await;
                }
            }
        }
    }

    async fn obtain(&self) -> Result<(Certificate, Details), IssueError> {
        let request = Request::new()?;
        let mut message = tonic::Request::new(IstioCertificateRequest {
            csr: request.csr.clone(),
            ..IstioCertificateRequest::default()
        });
        message
            .metadata_mut()
            .insert("authorization", self.bearer().await?);
        let channel = channel(&self.connect, &self.authority, None)
            .await
            .map_err(|error| IssueError::Channel(connection_error(&error)))?;
        let answer = IstioCertificateServiceClient::new(channel)
            .create_certificate(message)
            .await;
        let answer = answer.map_err(|status| IssueError::Refused {
            code: status.code(),
            message: status.message().to_owned(),
        })?;
        let Signed { certificate, roots } = request.complete(&answer.into_inner().cert_chain)?;
        let details = Details::read(&certificate)?;
        if details.remaining(SystemTime::now()).is_zero() {
            let text =
                "the certificate is already expired; do the clocks of this node and the controller agree?";
            return Err(IssueError::Malformed(text.to_owned()));
        }
        if let Some(files) = &self.files {
            files.write(&certificate, &self.trust(roots)).await?;
        }
        Ok((certificate, details))
    }

    /// The roots known so far, and these.
    fn trust(&self, roots: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
        let mut bundle = match self.roots.current().ready() {
            Some(secret) => match &**secret {
                Secret::TrustBundle(bundle) => bundle.clone(),
                Secret::Certificate(_) => TrustBundle::default(),
            },
            None => TrustBundle::default(),
        };
        let known = bundle.roots.len();
        for root in roots {
            if !bundle.roots.contains(&root) {
                bundle.roots.push(root);
            }
        }
        if bundle.roots.len() > known {
            let secret = Secret::TrustBundle(bundle.clone());
            self.store.publish(TRUST_BUNDLE, State::Ready(Arc::new(secret)));
        }
        bundle.roots
    }

    /// The token as it is now: kubelet replaces the file long before the token expires.
    async fn bearer(&self) -> Result<MetadataValue<Ascii>, IssueError> {
        let path = || self.token_path.display().to_string();
        let token = tokio::fs::read_to_string(&self.token_path)
            .await
            .map_err(|source| IssueError::Token { path: path(), source })?;
        let token = token.trim();
        if token.is_empty() {
            return Err(IssueError::BadToken(path()));
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .map_err(|_| IssueError::BadToken(path()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn publish(&self, certificate: &Certificate, details: Details, wait: Duration) {
        info!(
            identity = details.identity.label(),
            serial = details.serial,
            valid_s = details.remaining(SystemTime::now()).as_secs(),
            renewal_s = wait.as_secs(),
            "certificate obtained"
        );
        let secret = Secret::Certificate(certificate.clone());
        self.store
            .publish(WORKLOAD_CERTIFICATE, State::Ready(Arc::new(secret)));
        self.status.send_modify(|status| {
            status.rotations += u64::from(status.current.is_some());
            status.current = Some(details);
            status.last_error = None;
        });
    }

    fn failed(&self, error: &IssueError, wait: Duration) {
        let retry_ms = wait.as_millis();
        let remaining = {
            let status = self.status.borrow();
            status
                .current
                .as_ref()
                .map(|current| current.remaining(SystemTime::now()))
        };
        match remaining {
            None => warn!(%error, retry_ms, "no certificate yet: connections of the mesh wait"),
            Some(Duration::ZERO) => {
                error!(%error, retry_ms, "the certificate has expired: the mesh refuses us")
            }
            Some(left) => {
                warn!(%error, retry_ms, expires_s = left.as_secs(), "the certificate is not renewed yet")
            }
        }
        self.status.send_modify(|status| {
            status.failures += 1;
            status.last_error = Some(error.to_string());
        });
    }
}

/// Waits until the roots change to ones that this certificate does not lead to.
async fn distrusted(roots: &mut Watched<Secret>, certificate: &Certificate) {
    loop {
        roots.changed().await;
        if let State::Ready(secret) = roots.current()
            && let Secret::TrustBundle(bundle) = &*secret
            && !tls::trusted(certificate, bundle)
        {
            return;
        }
    }
}

/// What went wrong on the connection: tonic's own text says only that the transport failed.
fn connection_error(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts = causes.map(|cause| (cause.is::<io::Error>(), cause.to_string()));
    match texts.find(|(is_io, _)| *is_io) {
        Some((_, text)) => text,
        None => error.to_string(),
    }
}
