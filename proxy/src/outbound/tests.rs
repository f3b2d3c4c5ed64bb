use tokio::net::TcpListener;

use super::*;
use crate::{
    drain::Drain,
    http::AccessLog,
    model::{
        AppProtocol, Cluster, Direction, Discovery, FilterChain, Inspect, Limits, Listener, Tcp, Terminal,
        WeightedCluster,
    },
    net::Dialer,
    telemetry::Telemetry,
    tls::Tls,
    upstream::{Connector, Upstreams},
    xds::{Source, State, Status, Store},
};

/// A proxy whose control plane is away, in a mesh that allows egress.
fn disconnected() -> Arc<Context> {
    let (store, _interest) = Store::new();
    let tls = Arc::new(Tls::new(store.clone()));
    let telemetry = Telemetry::default();
    let connector = Connector::new(Dialer::default(), &telemetry);
    store.publish("passthrough", State::Ready(Arc::new(passthrough())));
    store.publish("outbound", State::Ready(Arc::new(egress())));
    Arc::new(Context {
        upstreams: Upstreams::new(store.clone(), tls.clone(), connector, telemetry.requests.clone()),
        store,
        tls,
        telemetry,
        access_log: AccessLog::default(),
        drain: Drain::default(),
        detect_timeout: Duration::from_millis(10),
        header_timeout: Duration::from_secs(5),
        inbound_room: Arc::new(tokio::sync::Semaphore::new(8)),
        pod_ips: Vec::new(),
        control_plane: true,
        stream: Status::default(),
        own: parking_lot::RwLock::default(),
    })
}

fn passthrough() -> Cluster {
    Cluster {
        name: "passthrough".to_owned(),
        discovery: Discovery::OriginalDst,
        connect_timeout: Duration::from_secs(1),
        tls: None,
        protocol: AppProtocol::Downstream,
        limits: Limits::default(),
        outlier_detection: None,
    }
}

fn egress() -> Listener {
    let clusters = vec![WeightedCluster {
        cluster: "passthrough".to_owned(),
        weight: 1,
    }];
    Listener {
        name: "outbound".to_owned(),
        address: None,
        original_dst: true,
        direction: Direction::Outbound,
        inspect: Inspect::default(),
        chains: Vec::new(),
        default_chain: Some(Arc::new(FilterChain {
            name: "egress".to_owned(),
            matches: crate::model::ChainMatch::default(),
            tls: None,
            network: Vec::new(),
            terminal: Terminal::Tcp(Tcp {
                clusters,
                idle_timeout: None,
            }),
        })),
    }
}

/// Handles a connection whose client has left already, towards `destination`.
async fn visit(context: &Arc<Context>, destination: SocketAddr) -> Result<(), Reason> {
    let services = Services::new(context.clone());
    let outbound = context.assemble("outbound");
    assert!(matches!(outbound.answered().await, Standing::Ready(_)));
    let redirect = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(redirect.local_addr().unwrap()).await.unwrap();
    let (stream, source) = redirect.accept().await.unwrap();
    drop(client);
    handle(&services, &outbound, stream, source, destination).await
}

#[tokio::test(start_paused = true)]
async fn an_address_that_the_control_plane_never_spoke_of_is_refused() {
    let context = disconnected();
    let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let destination = outside.local_addr().unwrap();
    let refused = visit(&context, destination).await;
    assert_eq!(refused, Err(Reason::UnknownDestination));
    let reached = timeout(Duration::from_millis(1), outside.accept()).await;
    assert!(reached.is_err(), "it was passed through");
}

#[tokio::test]
async fn an_address_outside_the_mesh_is_passed_through() {
    let context = disconnected();
    let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let destination = outside.local_addr().unwrap();
    let absent = State::<Listener>::Absent;
    context
        .store
        .apply(&destination.to_string(), absent, Source::default());
    let passing = tokio::spawn(async move { visit(&context, destination).await });
    let (reached, _) = outside.accept().await.unwrap();
    drop(reached);
    assert_eq!(passing.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_scan_of_the_network_does_not_fill_the_memory() {
    let services = Services::new(disconnected());
    let address =
        |host: usize| SocketAddr::from((std::net::Ipv4Addr::from_bits(host.try_into().unwrap()), 80));
    for host in 0..FOLLOWED {
        assert!(services.find(address(host)).is_some());
    }
    assert!(services.find(address(FOLLOWED)).is_none());
    assert!(services.find(address(0)).is_some(), "known ones stay in use");
    assert_eq!(services.known.lock().len(), FOLLOWED);
}
