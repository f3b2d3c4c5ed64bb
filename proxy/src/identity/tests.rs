use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tonic::{Request, Response, Status as Refusal};
use weir_xds::istio::v1::auth::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Agent, Credentials, Files, Status, connector, request};
use crate::{
    model::{
        AppProtocol, Cluster, Discovery, Endpoint, Endpoints, Limits, Secret, ServerTls, StringMatcher,
        TlsVersion, UpstreamTls,
    },
    net::Dialer,
    tls::{
        PeerIdentity, ServerSide,
        testing::{Ca, Leaf, bundle},
    },
    xds::{State, Store, channel},
};

const ME: &str = "spiffe://cluster.local/ns/shop/sa/buyer";
const CONTROLLER: &str = "weir-controller.weir-system.svc.cluster.local";
const PATIENCE: Duration = Duration::from_secs(30);

/// What the signer does and saw.
struct Signer {
    ca: Arc<Ca>,
    valid_s: i64,
    refusals: u32,
    tokens: Vec<String>,
    peers: Vec<Option<Arc<PeerIdentity>>>,
}

#[derive(Clone)]
struct Service(Arc<Mutex<Signer>>);

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Refusal> {
        let mut signer = self.0.lock();
        let token = request.metadata().get("authorization").unwrap().to_str().unwrap();
        signer.tokens.push(token.to_owned());
        if signer.refusals > 0 {
            signer.refusals -= 1;
            return Err(Refusal::permission_denied("not you"));
        }
        let leaf = signer.ca.sign(
            &request.get_ref().csr,
            &Leaf {
                uris: &[ME],
                dns: &[],
                valid: (-1, signer.valid_s),
            },
        );
        let cert_chain = vec![leaf, signer.ca.pem.clone()];
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// A control plane on loopback, and a proxy's store that trusts it.
struct Lab {
    ca: Arc<Ca>,
    signer: Arc<Mutex<Signer>>,
    cluster: Arc<Cluster>,
    store: Store,
    directory: tempfile::TempDir,
    server: JoinHandle<()>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Lab {
    async fn new(valid_s: i64) -> Self {
        let ca = Arc::new(Ca::new());
        let signer = Arc::new(Mutex::new(Signer {
            ca: ca.clone(),
            valid_s,
            refusals: 0,
            tokens: Vec::new(),
            peers: Vec::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, ca.clone(), signer.clone()));
        let (store, _) = Store::new();
        store.publish("trust-bundle", State::Ready(bundle(&[&ca])));
        let lab = Self {
            ca,
            signer,
            cluster: Arc::new(cluster(address)),
            store,
            directory: tempfile::tempdir().unwrap(),
            server,
        };
        std::fs::write(lab.token_path(), "first\n").unwrap();
        lab
    }

    fn token_path(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    fn agent(&self) -> (watch::Receiver<Status>, JoinHandle<()>) {
        let agent = Agent::new(&self.cluster, self.token_path(), &self.store, Dialer::default());
        (agent.status(), tokio::spawn(agent.run()))
    }
}

async fn serve(listener: TcpListener, ca: Arc<Ca>, signer: Arc<Mutex<Signer>>) {
    let (store, _) = Store::new();
    let certificate = ca.issue(&Leaf {
        uris: &[],
        dns: &[CONTROLLER],
        valid: (-60, 3600),
    });
    store.publish("server", State::Ready(certificate));
    store.publish("roots", State::Ready(bundle(&[&ca])));
    let side = ServerSide::new(
        &ServerTls {
            certificate: "server".into(),
            trust_bundle: Some("roots".into()),
            inline_trust: None,
            subject_alt_names: Vec::new(),
            require_client_certificate: false,
            alpn: vec!["h2".into()],
            min_version: TlsVersion::V1_3,
            max_version: TlsVersion::V1_3,
            algorithms: Default::default(),
        },
        &store,
    );
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(accepted) = side.accept(stream, PATIENCE, None).await else {
            continue;
        };
        signer.lock().peers.push(accepted.peer);
        let service = TowerToHyperService::new(IstioCertificateServiceServer::new(Service(signer.clone())));
        let io = TokioIo::new(accepted.stream);
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service),
        );
    }
}

fn cluster(address: std::net::SocketAddr) -> Cluster {
    let endpoints = vec![Endpoint {
        address,
        weight: 1,
        principal: None,
        workload: Arc::default(),
    }];
    Cluster {
        name: "xds".into(),
        discovery: Discovery::Static(Arc::new(Endpoints { endpoints })),
        connect_timeout: PATIENCE,
        tls: Some(Arc::new(UpstreamTls {
            sni: CONTROLLER.into(),
            alpn: Vec::new(),
            certificate: Some("workload-cert".into()),
            trust_bundle: Some("trust-bundle".into()),
            inline_trust: None,
            subject_alt_names: vec![StringMatcher::Exact(CONTROLLER.into())],
            min_version: TlsVersion::V1_3,
            max_version: TlsVersion::V1_3,
            algorithms: Default::default(),
        })),
        protocol: AppProtocol::Http2,
        limits: Limits::default(),
        outlier_detection: None,
    }
}

async fn until(status: &mut watch::Receiver<Status>, reached: impl FnMut(&Status) -> bool) -> Status {
    let reached = timeout(PATIENCE, status.wait_for(reached)).await;
    reached.expect("in time").expect("the agent lives").clone()
}

#[tokio::test]
async fn a_certificate_is_obtained_and_renewed_with_the_newest_token() {
    let lab = Lab::new(3).await;
    let (mut status, agent) = lab.agent();
    let first = until(&mut status, |status| status.current.is_some())
        .await
        .current
        .unwrap();
    assert_eq!(first.identity.principal(), Some(ME));
    assert!(first.not_after > SystemTime::now());
    let watched = lab.store.watch::<Secret>("workload-cert").current();
    assert!(
        matches!(&**watched.ready().unwrap(), Secret::Certificate(certificate) if certificate.chain.len() == 1)
    );

    std::fs::write(lab.token_path(), "second").unwrap();
    let renewed = until(&mut status, |status| status.rotations == 1)
        .await
        .current
        .unwrap();
    assert_ne!(renewed.serial, first.serial);
    assert_eq!(lab.signer.lock().tokens, ["Bearer first", "Bearer second"]);
    assert_eq!(lab.signer.lock().peers, [None, None]);
    agent.abort();
}

#[tokio::test]
async fn a_proxy_beside_is_given_each_certificate_with_its_key_and_roots() {
    let lab = Lab::new(3).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::new(&lab.cluster, lab.token_path(), &lab.store, Dialer::default());
    let agent = agent.serving(Files::new(directory.path().to_owned()));
    let (mut status, agent) = (agent.status(), tokio::spawn(agent.run()));
    let path = |name: &str| directory.path().join(name);
    let secret = |name: &str| -> serde_json::Value {
        let text = std::fs::read(path(name)).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["resources"][0].clone()
    };
    let chain = |secret: &serde_json::Value| {
        let text = secret["tls_certificate"]["certificate_chain"]["inline_string"].clone();
        CertificateDer::from_pem_slice(text.as_str().unwrap().as_bytes()).unwrap()
    };
    until(&mut status, |status| status.current.is_some()).await;
    let first = secret("workload-cert.json");
    let key = first["tls_certificate"]["private_key"]["inline_string"]
        .as_str()
        .unwrap();
    let key = rcgen::KeyPair::from_pem(key).unwrap();
    let leaf = chain(&first);
    let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(parsed.public_key().subject_public_key.data, key.public_key_raw());
    let mode = std::fs::metadata(path("workload-cert.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    // The signer goes over to another root, and sends it along.
    let next = Arc::new(Ca::new());
    lab.signer.lock().ca = next.clone();
    until(&mut status, |status| status.rotations == 1).await;
    assert_ne!(chain(&secret("workload-cert.json")), leaf);
    let bundle = secret("trust-bundle.json");
    let bundle = bundle["validation_context"]["trusted_ca"]["inline_string"]
        .as_str()
        .unwrap();
    let roots: Vec<_> = CertificateDer::pem_slice_iter(bundle.as_bytes())
        .map(Result::unwrap)
        .collect();
    assert_eq!(roots, [lab.ca.root.clone(), next.root.clone()]);
    agent.abort();
}

#[tokio::test]
async fn a_refusal_is_reported_and_tried_again() {
    let lab = Lab::new(3600).await;
    lab.signer.lock().refusals = 2;
    let (mut status, agent) = lab.agent();
    let failed = until(&mut status, |status| status.failures == 1).await;
    assert!(failed.last_error.unwrap().contains("not you"));
    let done = until(&mut status, |status| status.current.is_some()).await;
    assert_eq!((done.failures, done.rotations, done.last_error), (2, 0, None));
    agent.abort();
}

#[tokio::test]
async fn a_missing_token_is_named() {
    let lab = Lab::new(3600).await;
    std::fs::remove_file(lab.token_path()).unwrap();
    let (mut status, agent) = lab.agent();
    let failed = until(&mut status, |status| status.failures > 0).await;
    assert!(failed.last_error.unwrap().contains("token"));
    agent.abort();
}

#[tokio::test]
async fn a_controller_that_is_not_trusted_gets_no_token() {
    let lab = Lab::new(3600).await;
    lab.store
        .publish("trust-bundle", State::Ready(bundle(&[&Ca::new()])));
    let (mut status, agent) = lab.agent();
    let failed = until(&mut status, |status| status.failures > 0).await;
    let error = failed.last_error.unwrap();
    assert!(error.contains("trust bundle"), "{error}");
    assert!(lab.signer.lock().tokens.is_empty());
    agent.abort();
}

#[tokio::test]
async fn new_roots_without_ours_renew_at_once() {
    let lab = Lab::new(3600).await;
    let (mut status, agent) = lab.agent();
    until(&mut status, |status| status.current.is_some()).await;
    let next = Arc::new(Ca::new());
    lab.store
        .publish("trust-bundle", State::Ready(bundle(&[&lab.ca, &next])));
    lab.signer.lock().ca = next.clone();
    assert_eq!(status.borrow().rotations, 0);
    lab.store.publish("trust-bundle", State::Ready(bundle(&[&next])));
    // The controller in this test keeps its old certificate, so the renewal is seen to be tried.
    until(&mut status, |status| status.failures > 0).await;
    agent.abort();
}

#[tokio::test]
async fn connections_of_the_stream_show_the_newest_certificate() {
    let lab = Lab::new(3600).await;
    let connect = connector(
        &lab.cluster,
        Credentials::Certificate,
        &lab.store,
        Dialer::default(),
    );
    for uri in [ME, "spiffe://cluster.local/ns/shop/sa/other"] {
        lab.store.publish("workload-cert", State::Ready(lab.ca.leaf(uri)));
        channel(&connect, "controller:15128", None).await.unwrap();
    }
    let connected = || lab.signer.lock().peers.len() == 2;
    timeout(PATIENCE, async {
        while !connected() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let signer = lab.signer.lock();
    let seen: Vec<_> = signer
        .peers
        .iter()
        .flatten()
        .filter_map(|peer| peer.principal())
        .collect();
    assert_eq!(seen, [ME, "spiffe://cluster.local/ns/shop/sa/other"]);
}

#[test]
fn an_answer_for_another_key_is_refused() {
    let ca = Ca::new();
    let leaf = Leaf {
        uris: &[ME],
        dns: &[],
        valid: (-1, 60),
    };
    let answer = ca.sign(&request::Request::new().unwrap().csr, &leaf);
    assert!(request::Request::new().unwrap().complete(&[answer]).is_err());
    assert!(request::Request::new().unwrap().complete(&[]).is_err());
    let request = request::Request::new().unwrap();
    let answer = ca.sign(&request.csr, &leaf);
    assert!(request.complete(&[answer, ca.pem.clone()]).is_ok());
}
