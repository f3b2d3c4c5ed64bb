//! A sidecar's side of the controller: has a key signed, and follows its configuration.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
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

use crate::{controller::Controller, world::World};

const CONTROLLER_NAME: &str = "weir-controller.weir-system.svc";
const EXCHANGE: Duration = Duration::from_secs(20);

/// A certificate and its key.
pub(crate) struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

/// A TLS client that trusts the mesh's roots.
pub(crate) async fn tls(world: &World, shown: Option<&Credentials>) -> anyhow::Result<ClientConfig> {
    let roots = world.last_roots().await;
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root?)?;
    }
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store);
    Ok(match shown {
        Some(shown) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.key.clone()));
            config.with_client_auth_cert(shown.chain.clone(), key)?
        }
        None => config.with_no_client_auth(),
    })
}

async fn channel(
    world: &World,
    controller: &Controller,
    shown: Option<&Credentials>,
) -> anyhow::Result<Channel> {
    let mut config = tls(world, shown).await?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(CONTROLLER_NAME)?;
    let port = controller.ports.xds;
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://controller");
    let connected = endpoint.connect_with_connector(connect);
    timeout(EXCHANGE, connected)
        .await
        .context("the controller takes no connection")?
        .with_context(|| format!("cannot connect to controller {}", controller.name))
}

/// Has a new key signed; `names`: the SPIFFE identities asked for.
pub(crate) async fn sign(
    world: &World,
    controller: &Controller,
    token: &str,
    names: &[&str],
) -> anyhow::Result<Result<Credentials, Status>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    for name in names {
        params.subject_alt_names.push(SanType::URI((*name).try_into()?));
    }
    let mut request = Request::new(IstioCertificateRequest {
        csr: params.serialize_request(&key)?.pem()?,
        ..IstioCertificateRequest::default()
    });
    let bearer = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    let mut client = IstioCertificateServiceClient::new(channel(world, controller, None).await?);
    let answer = timeout(EXCHANGE, client.create_certificate(request)).await;
    match answer.context("no answer about a certificate")? {
        Ok(signed) => {
            let chain = signed.into_inner().cert_chain;
            let chain = chain
                .iter()
                .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
            Ok(Ok(Credentials {
                chain: chain.collect::<Result<_, _>>()?,
                key: key.serialize_der(),
            }))
        }
        Err(status) => Ok(Err(status)),
    }
}

/// A stream of configuration, and what it brought.
pub(crate) struct Session {
    node: Option<Node>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    known: BTreeMap<String, Vec<u8>>,
}

impl Session {
    /// Connects to a controller as the sidecar of the pod with this UID, and asks for these resources.
    pub(crate) async fn open(
        world: &World,
        controller: &Controller,
        shown: &Credentials,
        uid: &str,
        wanted: &[(ResourceType, &str)],
    ) -> anyhow::Result<Self> {
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel(world, controller, Some(shown)).await?);
        let (requests, receiver) = mpsc::channel(64);
        let node = Some(Node {
            id: uid.to_owned(),
            ..Node::default()
        });
        let mut first = Self::request(ResourceType::Listener);
        first.node.clone_from(&node);
        first.resource_names_subscribe = vec!["inbound".to_owned()];
        requests.send(first).await?;
        let stream = client.delta_aggregated_resources(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let responses = timeout(EXCHANGE, stream)
            .await
            .context("no stream")??
            .into_inner();
        let session = Self {
            node,
            requests,
            responses,
            known: BTreeMap::new(),
        };
        for (kind, name) in wanted {
            let mut request = Self::request(*kind);
            request.node.clone_from(&session.node);
            request.resource_names_subscribe = vec![(*name).to_owned()];
            session.requests.send(request).await?;
        }
        Ok(session)
    }

    fn request(kind: ResourceType) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Takes responses until the resources are as wanted; how long that took.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&Known) -> bool,
    ) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        while !wanted(&Known(&self.known)) {
            let next = timeout(EXCHANGE, self.next()).await;
            next.with_context(|| format!("{what}: not so; known are {:?}", self.known.keys()))??;
        }
        Ok(begun.elapsed())
    }

    /// Takes whatever comes within this time.
    pub(crate) async fn drain(&mut self, period: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        while let Some(left) = period.checked_sub(begun.elapsed()) {
            match timeout(left, self.next()).await {
                Ok(taken) => taken?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Whether the resources are as wanted.
    pub(crate) fn has(&self, wanted: impl Fn(&Known) -> bool) -> bool {
        wanted(&Known(&self.known))
    }

    async fn next(&mut self) -> anyhow::Result<()> {
        let Some(response) = self.responses.message().await? else {
            bail!("the stream ended");
        };
        for name in &response.removed_resources {
            self.known.remove(name);
        }
        for resource in response.resources {
            let value = resource
                .resource
                .map(|any| any.value.to_vec())
                .unwrap_or_default();
            self.known.insert(resource.name, value);
        }
        let acknowledged = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(acknowledged).await?;
        Ok(())
    }
}

/// The resources of a session, by name.
pub(crate) struct Known<'a>(&'a BTreeMap<String, Vec<u8>>);

impl Known<'_> {
    /// Whether there is a resource of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether any resource has this text in it.
    pub(crate) fn says(&self, text: &str) -> bool {
        let text = text.as_bytes();
        let mut all = self.0.values();
        all.any(|bytes| bytes.windows(text.len()).any(|window| window == text))
    }
}
