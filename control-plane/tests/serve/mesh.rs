//! A small mesh made by hand, a controller that serves it, and clients of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Parser as _;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint as GrpcEndpoint, Uri},
};
use weir_controller::{
    app::{App, Authority, start_admin},
    catalog::{
        Authorization, Endpoint, HttpRule, InboundPort, MeshSettings, Pod, Protocol, Rule, Service,
        ServiceKey, ServicePort, Snapshot, TcpRule, Workload,
    },
    certificates::{TokenIdentity, join_token},
    config::Args,
};
use weir_xds::{
    ResourceType,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};

/// Nothing here takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const BUYER: &str = "uid-bookbuyer";
pub(crate) const STORE: &str = "uid-bookstore";

pub(crate) fn key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: name.into(),
        name: name.into(),
    }
}

pub(crate) fn principal(name: &str) -> Arc<str> {
    format!("spiffe://cluster.local/ns/{name}/sa/{name}").into()
}

/// A service of one ready pod, `10.0.0.<n>` behind `10.96.0.<n>`, port 80 to 14001.
pub(crate) fn service(name: &str, n: u8, protocol: Protocol) -> Service {
    let workload = workload(name);
    Service {
        key: key(name),
        cluster_ips: vec![[10, 96, 0, n].into()],
        ports: vec![ServicePort {
            number: 80,
            name: String::new(),
            protocol,
            endpoints: vec![Endpoint {
                ip: [10, 0, 0, n].into(),
                port: 14001,
                principal: principal(name),
                workload,
            }],
        }],
        principals: BTreeSet::from([principal(name)]),
        split: None,
        reachable: true,
    }
}

fn workload(name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        namespace: name.to_owned(),
        kind: "Deployment".to_owned(),
        name: name.to_owned(),
        pod: format!("{name}-0"),
    })
}

fn pod(name: &str, n: u8, inbound: Vec<InboundPort>) -> Pod {
    Pod {
        uid: format!("uid-{name}").into(),
        service_account: name.to_owned(),
        principal: principal(name),
        ips: vec![[10, 0, 0, n].into()],
        workload: workload(name),
        inbound,
    }
}

pub(crate) fn mesh() -> Snapshot {
    let rule = Rule {
        policies: BTreeSet::from(["bookstore/bookstore".to_owned()]),
        principals: BTreeSet::from([principal("bookbuyer")]),
    };
    let authorization = Authorization::Rules {
        http: vec![HttpRule {
            path_regex: "/buy-a-book/new".to_owned(),
            methods: BTreeSet::from(["GET".to_owned()]),
            headers: BTreeMap::new(),
            rule: rule.clone(),
        }],
        tcp: vec![TcpRule {
            ports: BTreeSet::new(),
            for_requests: false,
            rule,
        }],
    };
    let store = InboundPort {
        port: 14001,
        protocol: Protocol::Http,
        services: vec![key("bookstore")],
        authorization: Arc::new(authorization),
    };
    let mut snapshot = Snapshot {
        generation: 1,
        mesh: Arc::new(MeshSettings::default()),
        ..Snapshot::default()
    };
    for (n, name) in [(1, "bookstore"), (2, "warehouse")] {
        let service = service(name, n, Protocol::Http);
        snapshot
            .addresses
            .insert(service.cluster_ips[0], service.key.clone());
        snapshot.services.insert(service.key.clone(), Arc::new(service));
    }
    for pod in [pod("bookbuyer", 9, vec![]), pod("bookstore", 1, vec![store])] {
        snapshot.pods.insert(pod.uid.clone(), Arc::new(pod));
    }
    snapshot
}

/// A controller on loopback.
pub(crate) struct Controller {
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) address: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) state: TempDir,
    stop: CancellationToken,
    app: Option<App>,
}

impl Controller {
    pub(crate) async fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), mesh()).await
    }

    pub(crate) async fn start_with(state: TempDir, snapshot: Snapshot) -> Self {
        let mut args = Args::parse_from(
            ["weir-controller", "--manifests", "none", "--state-dir"]
                .into_iter()
                .chain([state.path().to_str().unwrap()]),
        );
        args.xds_address = ([127, 0, 0, 1], 0).into();
        args.health_address = ([127, 0, 0, 1], 0).into();
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
        let stop = CancellationToken::new();
        let admin = start_admin(&args, &stop).await.unwrap();
        let health = admin.address;
        let authority = Authority::in_directory(state.path()).unwrap();
        let app = App::start(&args, admin, authority, receiver, stop.clone())
            .await
            .unwrap();
        Self {
            snapshots,
            address: app.xds_address,
            health,
            state,
            stop,
            app: Some(app),
        }
    }

    /// Stops, and gives the state directory back.
    pub(crate) async fn stop(mut self) -> TempDir {
        self.stop.cancel();
        self.app.take().unwrap().finished(self.stop.clone()).await;
        std::mem::replace(&mut self.state, tempfile::tempdir().unwrap())
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = (**self.snapshots.borrow()).clone();
        snapshot.generation += 1;
        change(&mut snapshot);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    pub(crate) fn change_service(&self, name: &str, change: impl FnOnce(&mut Service)) {
        self.change(|snapshot| {
            let mut service = (**snapshot.services.get(&key(name)).unwrap()).clone();
            change(&mut service);
            snapshot.services.insert(service.key.clone(), Arc::new(service));
        });
    }

    pub(crate) fn token(&self, name: &str, uid: &str, age: Duration) -> String {
        let holder = TokenIdentity {
            namespace: name.to_owned(),
            service_account: name.to_owned(),
            pod: format!("{name}-0"),
            pod_uid: uid.to_owned(),
        };
        let made = SystemTime::now() - age;
        let claims = join_token::Claims::for_pod(&holder, made, Duration::from_secs(3600));
        let key = join_token::load_or_create_key(self.state.path()).unwrap();
        join_token::mint(&key, &claims).unwrap()
    }

    pub(crate) fn door(&self, certificate: Option<&Certificate>) -> Door {
        Door {
            config: Arc::new(self.client_config(certificate)),
            address: self.address,
        }
    }

    pub(crate) async fn channel(&self, certificate: Option<&Certificate>) -> Channel {
        let door = self.door(certificate);
        let connect = tower::service_fn(move |_: Uri| {
            let door = door.clone();
            async move { door.knock([127, 0, 0, 1]).await.map(TokioIo::new) }
        });
        GrpcEndpoint::from_static("http://controller")
            .connect_with_connector(connect)
            .await
            .unwrap()
    }

    fn client_config(&self, certificate: Option<&Certificate>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let bundle = std::fs::read(self.state.path().join("ca.crt")).unwrap();
        for root in CertificateDer::pem_slice_iter(&bundle) {
            roots.add(root.unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match certificate {
            None => config.with_no_client_auth(),
            Some(certificate) => {
                let pem = certificate.chain.concat();
                let chain = CertificateDer::pem_slice_iter(pem.as_bytes());
                let key = PrivateKeyDer::try_from(certificate.key.serialize_der()).unwrap();
                config
                    .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    pub(crate) async fn sign(&self, token: &str, sans: Vec<SanType>) -> Result<Certificate, Status> {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = sans;
        let csr = parameters.serialize_request(&key).unwrap().pem().unwrap();
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            ..IstioCertificateRequest::default()
        });
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        let mut client = IstioCertificateServiceClient::new(self.channel(None).await);
        let response = client.create_certificate(request).await?;
        Ok(Certificate {
            chain: response.into_inner().cert_chain,
            key,
        })
    }

    pub(crate) async fn certificate(&self, name: &str) -> Certificate {
        let token = self.token(name, &format!("uid-{name}"), Duration::ZERO);
        self.sign(&token, vec![]).await.unwrap()
    }

    pub(crate) async fn connect(&self, name: &str) -> Delta {
        let certificate = self.certificate(name).await;
        Delta::open(self, &certificate, &format!("uid-{name}"))
            .await
            .unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = TcpStream::connect(self.health).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// How a client gets in.
#[derive(Clone)]
pub(crate) struct Door {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

impl Door {
    /// Shakes hands, coming from an address.
    pub(crate) async fn knock(&self, from: [u8; 4]) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(self.address).await?;
        let name = ServerName::try_from("weir-controller.weir-system.svc.cluster.local").unwrap();
        TlsConnector::from(self.config.clone())
            .connect(name, stream)
            .await
    }

    /// Waits until the server speaks HTTP/2; `false`: it hung up before.
    pub(crate) async fn is_opened(stream: &mut TlsStream<TcpStream>) -> bool {
        stream.read_u8().await.is_ok()
    }
}

/// A signed key.
pub(crate) struct Certificate {
    pub(crate) chain: Vec<String>,
    pub(crate) key: KeyPair,
}

/// A delta stream.
pub(crate) struct Delta {
    pub(crate) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(crate) responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<Node>,
}

impl Delta {
    pub(crate) async fn open(
        controller: &Controller,
        certificate: &Certificate,
        node: &str,
    ) -> Result<Self, Status> {
        let channel = controller.channel(Some(certificate)).await;
        let (requests, receiver) = mpsc::channel(64);
        let responses = AggregatedDiscoveryServiceClient::new(channel)
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let node = Some(Node {
            id: node.to_owned(),
            ..Node::default()
        });
        Ok(Self {
            requests,
            responses,
            node,
        })
    }

    /// Says that it is a stock Envoy.
    pub(crate) fn saying_envoy(mut self) -> Self {
        if let Some(node) = &mut self.node {
            node.user_agent_name = "envoy".to_owned();
        }
        self
    }

    pub(crate) async fn send(&mut self, kind: ResourceType, change: impl FnOnce(&mut DeltaDiscoveryRequest)) {
        let mut request = DeltaDiscoveryRequest {
            node: self.node.take(),
            type_url: kind.url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        change(&mut request);
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn subscribe(&mut self, kind: ResourceType, names: &[&str]) {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        self.send(kind, |request| request.resource_names_subscribe = names)
            .await;
    }

    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let message = timeout(PATIENCE, self.responses.message())
            .await
            .expect("a response in time")?;
        message.ok_or_else(|| Status::ok("ended"))
    }

    /// The next response as names with versions, and names removed.
    pub(crate) async fn update(&mut self) -> (HashMap<String, String>, Vec<String>) {
        let response = self.next().await.unwrap();
        let resources = response.resources.into_iter();
        (
            resources
                .map(|resource| (resource.name, resource.version))
                .collect(),
            response.removed_resources,
        )
    }
}
