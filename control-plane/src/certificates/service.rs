//! Istio's certificate signing service: a token and a request in, a signed chain out.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use weir_xds::istio::v1::auth::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::IstioCertificateService,
};

use super::{
    Identity, Issuer, Profile, SigningRequest, TokenError, TokenIdentity, VALIDITY_FLOOR, Verifier,
    csr::{self, CsrError},
};
use crate::catalog::Snapshot;

/// How long a pod may be unknown to the catalog when its proxy asks: pods start faster than watches report.
const PATIENCE: Duration = Duration::from_secs(2);

/// Certificates issued and refused.
#[derive(Clone)]
pub struct Metrics {
    issued: Counter,
    issued_time: Histogram,
    refused: Family<Refused, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            issued: Counter::default(),
            issued_time: Histogram::new([0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]),
            refused: Family::default(),
        };
        registry.register(
            "osm_cert_issued_count",
            "Certificates issued",
            metrics.issued.clone(),
        );
        registry.register(
            "osm_cert_issued_time",
            "Seconds from request to certificate",
            metrics.issued_time.clone(),
        );
        registry.register(
            "weir_csr_refused",
            "Certificate signing requests refused, by reason",
            metrics.refused.clone(),
        );
        metrics
    }
}

/// The signing service.
pub struct Signing {
    issuer: Arc<dyn Issuer>,
    verifier: Arc<dyn Verifier>,
    catalog: watch::Receiver<Arc<Snapshot>>,
    metrics: Metrics,
}

/// Why a request was refused: the metric's label, the gRPC status and its text.
struct Refusal {
    reason: &'static str,
    status: Status,
}

impl Signing {
    /// Puts the service together.
    pub fn new(
        issuer: Arc<dyn Issuer>,
        verifier: Arc<dyn Verifier>,
        catalog: watch::Receiver<Arc<Snapshot>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            issuer,
            verifier,
            catalog,
            metrics,
        }
    }

    async fn decide(
        &self,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<(SigningRequest, String), Refusal> {
        let token = bearer(request)?;
        let holder = self.verifier.verify(token).await?;
        let snapshot = self.wait_for_pod(&holder).await?;
        let identity = identity(&snapshot, &holder)?;
        let body = request.get_ref();
        let public_key = csr::public_key(&body.csr, &identity)?;
        let validity = validity(snapshot.mesh.certificate_validity, body.validity_duration);
        let who = identity.to_string();
        let profile = Profile::Workload {
            identity,
            pod_uid: holder.pod_uid,
        };
        Ok((
            SigningRequest {
                public_key,
                profile,
                validity,
            },
            who,
        ))
    }

    async fn wait_for_pod(&self, holder: &TokenIdentity) -> Result<Arc<Snapshot>, Refusal> {
        let mut catalog = self.catalog.clone();
        let known = catalog.wait_for(|snapshot| snapshot.pods.contains_key(holder.pod_uid.as_str()));
        match timeout(PATIENCE, known).await {
            Ok(Ok(snapshot)) => Ok(snapshot.clone()),
            _ => Err(Refusal {
                reason: "unknown_pod",
                status: Status::unavailable(format!(
                    "pod {}/{} ({}) is not known as a pod with a sidecar in a monitored namespace; try again",
                    holder.namespace, holder.pod, holder.pod_uid
                )),
            }),
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Signing {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let started = Instant::now();
        let peer = request
            .extensions()
            .get::<crate::xds::Peer>()
            .map(|peer| peer.address);
        let (signing, who) = self.decide(&request).await.map_err(|refusal| {
            let labels = Refused {
                reason: refusal.reason,
            };
            self.metrics.refused.get_or_create(&labels).inc();
            warn!(
                ?peer,
                reason = refusal.reason,
                why = refusal.status.message(),
                "refused a certificate"
            );
            refusal.status
        })?;
        let validity = signing.validity;
        let cert_chain = self.issuer.sign(signing).await.map_err(|error| {
            self.metrics
                .refused
                .get_or_create(&Refused { reason: "issuer" })
                .inc();
            warn!(?peer, %error, "cannot issue a certificate");
            Status::unavailable(format!("cannot issue a certificate now: {error}"))
        })?;
        self.metrics.issued.inc();
        self.metrics.issued_time.observe(started.elapsed().as_secs_f64());
        info!(
            ?peer,
            identity = who,
            validity_s = validity.as_secs(),
            "issued a certificate"
        );
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

fn bearer(request: &Request<IstioCertificateRequest>) -> Result<&str, Refusal> {
    request
        .metadata()
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(|| TokenError::Bad("no `authorization: Bearer` metadata".to_owned()).into())
}

fn identity(snapshot: &Snapshot, holder: &TokenIdentity) -> Result<Identity, Refusal> {
    let identity = Identity {
        trust_domain: snapshot.mesh.trust_domain.clone(),
        namespace: holder.namespace.clone(),
        service_account: holder.service_account.clone(),
    };
    match snapshot.pods.get(holder.pod_uid.as_str()) {
        Some(pod) if *pod.principal == *identity.uri() => Ok(identity),
        known => Err(Refusal {
            reason: "service_account_mismatch",
            status: Status::permission_denied(format!(
                "the token is for {identity}, pod {} runs as {}",
                holder.pod_uid,
                known.map_or("nobody", |pod| &pod.principal)
            )),
        }),
    }
}

/// The mesh's validity, or less when the proxy asks for less.
fn validity(mesh: Duration, asked_seconds: i64) -> Duration {
    let asked = u64::try_from(asked_seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map_or(mesh, Duration::from_secs);
    asked.min(mesh).max(VALIDITY_FLOOR)
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let reason = match error {
            TokenError::Bad(_) => "bad_token",
            TokenError::Expired => "expired",
            TokenError::WrongAudience => "wrong_audience",
            TokenError::Unavailable(_) => "unchecked",
        };
        let status = match error {
            TokenError::Unavailable(_) => Status::unavailable(error.to_string()),
            _ => Status::unauthenticated(error.to_string()),
        };
        Self { reason, status }
    }
}

impl From<CsrError> for Refusal {
    fn from(error: CsrError) -> Self {
        match error {
            CsrError::Malformed(_) => Self {
                reason: "malformed",
                status: Status::invalid_argument(error.to_string()),
            },
            CsrError::Identity { .. } => Self {
                reason: "csr_identity",
                status: Status::permission_denied(error.to_string()),
            },
        }
    }
}
