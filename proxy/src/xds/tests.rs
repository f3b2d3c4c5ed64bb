//! The stream against a server on loopback that a test plays by hand.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Streaming, transport::Server};
use weir_xds::{
    ResourceType,
    envoy::{
        config::{
            cluster::v3 as cds,
            core::v3::{Address, Node, SocketAddress, address, socket_address::PortSpecifier},
            endpoint::v3::{
                ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
            },
        },
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
            },
        },
    },
    pack,
};

use super::*;
use crate::{
    bootstrap::{Ads, Protocol},
    model::{Cluster, Endpoints},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// One stream as its server sees it.
struct Session<Q, A> {
    requests: Streaming<Q>,
    responses: mpsc::UnboundedSender<Result<A, tonic::Status>>,
}

type Delta = Session<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
type Sotw = Session<DiscoveryRequest, DiscoveryResponse>;

impl<Q, A> Session<Q, A> {
    async fn request(&mut self) -> Q {
        let request = timeout(PATIENCE, self.requests.message()).await;
        request
            .expect("a request in time")
            .expect("no error")
            .expect("an open stream")
    }

    fn respond(&self, response: A) {
        self.responses.send(Ok(response)).expect("an open stream");
    }
}

struct Service {
    delta: mpsc::UnboundedSender<Delta>,
    sotw: mpsc::UnboundedSender<Sotw>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream =
        UnboundedReceiverStream<Result<DeltaDiscoveryResponse, tonic::Status>>;
    type StreamAggregatedResourcesStream = UnboundedReceiverStream<Result<DiscoveryResponse, tonic::Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, tonic::Status> {
        let (responses, outgoing) = mpsc::unbounded_channel();
        let requests = request.into_inner();
        let _ = self.delta.send(Session { requests, responses });
        Ok(Response::new(UnboundedReceiverStream::new(outgoing)))
    }

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, tonic::Status> {
        let (responses, outgoing) = mpsc::unbounded_channel();
        let requests = request.into_inner();
        let _ = self.sotw.send(Session { requests, responses });
        Ok(Response::new(UnboundedReceiverStream::new(outgoing)))
    }
}

/// A proxy's stream and the server that it talks to.
struct World {
    store: Store,
    status: Status,
    delta: mpsc::UnboundedReceiver<Delta>,
    sotw: mpsc::UnboundedReceiver<Sotw>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl World {
    async fn new(protocol: Protocol, idle_grace: Duration) -> Self {
        Self::with(protocol, idle_grace, BTreeSet::new()).await
    }

    async fn with(protocol: Protocol, idle_grace: Duration, wildcard: BTreeSet<ResourceType>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (delta_sender, delta) = mpsc::unbounded_channel();
        let (sotw_sender, sotw) = mpsc::unbounded_channel();
        let service = AggregatedDiscoveryServiceServer::new(Service {
            delta: delta_sender,
            sotw: sotw_sender,
        });
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await;
        });
        let (store, interest) = Store::new();
        let status = Status::default();
        let connect: Connect = Arc::new(move || {
            Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Io>) })
        });
        let stream = Stream {
            ads: Ads {
                protocol,
                cluster: "xds".into(),
                authority: None,
                metadata: Vec::new(),
                wildcard,
                keepalive: Some(Keepalive::default()),
            },
            node: Node {
                id: "me".into(),
                ..Node::default()
            },
            connect,
            store: store.clone(),
            interest,
            status: status.clone(),
            idle_grace,
        };
        Self {
            store,
            status,
            delta,
            sotw,
            tasks: vec![server, tokio::spawn(stream.run())],
        }
    }

    async fn delta() -> Self {
        Self::new(Protocol::Delta, IDLE_GRACE).await
    }

    async fn delta_session(&mut self) -> Delta {
        let session = timeout(PATIENCE, self.delta.recv()).await;
        session.expect("a stream in time").expect("a running server")
    }
}

fn assignment(name: &str, port: u32) -> ClusterLoadAssignment {
    let address = Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: "10.0.0.1".into(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![endpoint],
            ..LocalityLbEndpoints::default()
        }],
        policy: None,
    }
}

fn resource(name: &str, version: &str, port: u32) -> Resource {
    Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(pack(&assignment(name, port))),
        ..Resource::default()
    }
}

fn response(nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: format!("system {nonce}"),
        type_url: ResourceType::Endpoints.url().into(),
        nonce: nonce.into(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        control_plane: None,
    }
}

async fn port(watched: &mut Watched<Endpoints>) -> Option<u16> {
    let found = timeout(PATIENCE, watched.answered())
        .await
        .expect("an answer in time");
    found.map(|endpoints| endpoints.endpoints[0].address.port())
}

#[tokio::test]
async fn a_resource_is_asked_for_updated_removed_and_added_again() {
    let mut world = World::delta().await;
    let mut session = world.delta_session().await;
    let mut a = world.store.watch::<Endpoints>("a");
    let first = session.request().await;
    assert_eq!(first.node.map(|node| node.id), Some("me".to_owned()));
    assert_eq!(first.resource_names_subscribe, ["a"]);

    session.respond(response("1", vec![resource("a", "v1", 1)], &[]));
    assert_eq!(port(&mut a).await, Some(1));
    let ack = session.request().await;
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("1", None));
    assert_eq!(ack.node, None);

    session.respond(response("2", vec![resource("a", "v2", 2)], &[]));
    session.request().await;
    assert_eq!(port(&mut a).await, Some(2));

    session.respond(response("3", vec![], &["a"]));
    session.request().await;
    assert_eq!(port(&mut a).await, None);

    session.respond(response("4", vec![resource("a", "v4", 4)], &[]));
    session.request().await;
    assert_eq!(port(&mut a).await, Some(4));
    assert_eq!(world.status.of(ResourceType::Endpoints).acks, 4);
    assert_eq!(world.status.of(ResourceType::Endpoints).version, "system 4");
    assert!(world.status.connected());
    assert!(world.status.last_update().is_some());
}

#[tokio::test]
async fn a_name_is_given_up_when_idle() {
    let mut world = World::new(Protocol::Delta, Duration::from_millis(1)).await;
    let mut session = world.delta_session().await;
    let a = world.store.watch::<Endpoints>("a");
    assert_eq!(session.request().await.resource_names_subscribe, ["a"]);
    drop(a);
    assert_eq!(session.request().await.resource_names_unsubscribe, ["a"]);
    assert!(world.store.dump().is_empty());
}

#[tokio::test]
async fn a_bad_resource_is_refused_alone_and_its_last_good_one_stays() {
    let mut world = World::delta().await;
    let mut session = world.delta_session().await;
    let mut a = world.store.watch::<Endpoints>("a");
    let mut b = world.store.watch::<Endpoints>("b");
    let mut asked = session.request().await.resource_names_subscribe;
    if asked.len() < 2 {
        asked.extend(session.request().await.resource_names_subscribe);
    }
    assert_eq!(asked, ["a", "b"]);
    session.respond(response(
        "1",
        vec![resource("a", "v1", 1), resource("b", "v1", 1)],
        &[],
    ));
    session.request().await;

    session.respond(response(
        "2",
        vec![resource("a", "v2", 70_000), resource("b", "v2", 2)],
        &[],
    ));
    let nack = session.request().await;
    assert_eq!(nack.response_nonce, "2");
    let error = nack.error_detail.expect("a NACK").message;
    assert!(
        error.contains("eds \"a\": endpoints[0].lb_endpoints[0]"),
        "{error}"
    );
    assert!(!error.contains("\"b\""), "{error}");
    assert_eq!(port(&mut a).await, Some(1));
    assert_eq!(port(&mut b).await, Some(2));
    assert_eq!(world.status.of(ResourceType::Endpoints).nacks, 1);
    let dumped = world.store.dump();
    assert_eq!(
        (dumped[0].version.as_str(), dumped[0].error.is_some()),
        ("v1", true)
    );
}

#[tokio::test]
async fn a_new_stream_starts_from_the_versions_in_force() {
    let mut world = World::delta().await;
    let mut session = world.delta_session().await;
    let mut a = world.store.watch::<Endpoints>("a");
    session.request().await;
    session.respond(response("1", vec![resource("a", "v1", 1)], &[]));
    session.request().await;
    drop(session);

    let _b = world.store.watch::<Endpoints>("b");
    let mut session = world.delta_session().await;
    let first = session.request().await;
    assert_eq!(first.node.map(|node| node.id), Some("me".to_owned()));
    assert_eq!(first.resource_names_subscribe, ["a", "b"]);
    let versions: Vec<_> = first.initial_resource_versions.into_iter().collect();
    assert_eq!(versions, [("a".to_owned(), "v1".to_owned())]);
    assert_eq!(port(&mut a).await, Some(1));
}

#[tokio::test]
async fn what_was_not_asked_for_is_passed_over() {
    let mut world = World::delta().await;
    let mut session = world.delta_session().await;
    let _a = world.store.watch::<Endpoints>("a");
    session.request().await;
    session.respond(response("1", vec![resource("other", "v1", 1)], &["third"]));
    assert_eq!(session.request().await.error_detail, None);
    assert_eq!(world.store.dump().len(), 1);
    let odd = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/odd".into(),
        nonce: "2".into(),
        ..DeltaDiscoveryResponse::default()
    };
    session.respond(odd);
    assert!(session.request().await.error_detail.is_some());
}

#[tokio::test]
async fn state_of_the_world_names_everything_and_takes_absence_at_its_word() {
    let mut world = World::new(Protocol::StateOfTheWorld, IDLE_GRACE).await;
    let mut session = timeout(PATIENCE, world.sotw.recv()).await.unwrap().unwrap();
    let mut cluster = world.store.watch::<Cluster>("c");
    let first = session.request().await;
    assert_eq!(
        (first.resource_names, first.version_info.as_str()),
        (vec!["c".to_owned()], "")
    );
    assert!(first.node.is_some());
    let original_dst = cds::Cluster {
        name: "c".into(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(
            cds::cluster::DiscoveryType::OriginalDst as i32,
        )),
        ..cds::Cluster::default()
    };
    let response = |version: &str, resources| DiscoveryResponse {
        version_info: version.into(),
        nonce: format!("nonce {version}"),
        type_url: ResourceType::Cluster.url().into(),
        resources,
        control_plane: None,
    };
    session.respond(response("1", vec![pack(&original_dst)]));
    let ack = session.request().await;
    assert_eq!(
        (ack.version_info.as_str(), ack.response_nonce.as_str()),
        ("1", "nonce 1")
    );
    assert!(timeout(PATIENCE, cluster.answered()).await.unwrap().is_some());

    let mut bad = original_dst.clone();
    bad.filters.push(vec![1]);
    session.respond(response("2", vec![pack(&bad)]));
    let nack = session.request().await;
    assert_eq!(
        (nack.version_info.as_str(), nack.response_nonce.as_str()),
        ("1", "nonce 2")
    );
    assert!(nack.error_detail.is_some());
    assert!(cluster.current().ready().is_some());

    session.respond(response("3", vec![]));
    session.request().await;
    assert!(matches!(cluster.current(), State::Absent));
}
