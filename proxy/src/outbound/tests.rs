use std::time::Duration;

use tokio::{net::TcpListener, task::JoinSet, time::timeout};

use super::{
    services::{FOLLOWED, WAITING},
    *,
};
use crate::{
    assemble::Standing,
    context::Context,
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

const IDLE: Duration = Duration::from_secs(60);

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
    visit_by(&Services::new(context.clone(), IDLE), destination).await
}

async fn visit_by(services: &Arc<Services>, destination: SocketAddr) -> Result<(), Reason> {
    let context = &services.context;
    let outbound = context.assemble("outbound");
    assert!(matches!(outbound.answered().await, Standing::Ready(_)));
    let redirect = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(redirect.local_addr().unwrap()).await.unwrap();
    let (stream, source) = redirect.accept().await.unwrap();
    drop(client);
    handle(services, &outbound, stream, source, destination).await
}

#[tokio::test(start_paused = true)]
async fn an_address_that_the_control_plane_never_spoke_of_is_refused() {
    let context = disconnected();
    let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let destination = outside.local_addr().unwrap();
    let refused = visit(&context, destination).await;
    assert_eq!(refused, Err(Reason::ControlPlaneSilent));
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
    let services = Services::new(disconnected(), IDLE);
    let now = Instant::now();
    for host in 0..FOLLOWED {
        assert!(services.find(address(host), now).is_some());
    }
    assert!(services.find(address(FOLLOWED), now).is_none());
    assert!(services.find(address(0), now).is_some(), "known ones stay in use");
    assert_eq!(services.known.lock().len(), FOLLOWED);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_connections_wait_for_an_answer() {
    let services = Services::new(disconnected(), IDLE);
    let mut waiting = JoinSet::new();
    for host in 0..WAITING {
        let services = services.clone();
        waiting.spawn(async move {
            let service = services.find(address(host % 8), Instant::now()).unwrap();
            services.is_one(address(host % 8), &service).await
        });
    }
    tokio::task::yield_now().await;
    let begun = tokio::time::Instant::now();
    let refused = visit_by(&services, address(9)).await;
    assert_eq!(refused, Err(Reason::Overflow));
    assert_eq!(begun.elapsed(), Duration::ZERO, "it waited");
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap(), Err(Reason::ControlPlaneSilent));
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    let service = services.find(address(9), Instant::now()).unwrap();
    let late = services.is_one(address(9), &service).await;
    assert_eq!(late, Err(Reason::ControlPlaneSilent), "there is room again");
}

/// Follows an address that the control plane says is not in the mesh.
async fn follow(services: &Services, host: usize, now: Instant) {
    let (store, name) = (&services.context.store, address(host).to_string());
    let service = services.find(address(host), now).unwrap();
    store.apply(&name, State::<Listener>::Absent, Source::default());
    assert!(matches!(service.answered().await, Standing::Absent));
}

#[tokio::test]
async fn what_is_not_used_is_forgotten() {
    let services = Services::new(disconnected(), IDLE);
    services.context.stream.opened();
    let (start, known) = (Instant::now(), || services.known.lock().len());
    follow(&services, 0, start).await;
    follow(&services, 1, start).await;
    services.find(address(1), start + IDLE / 2);
    services.forget_idle(start + IDLE);
    assert_eq!(known(), 1, "a connection however short counts as use");
    let open = services.find(address(1), start + IDLE).unwrap();
    services.forget_idle(start + IDLE * 3);
    assert_eq!(known(), 1, "an open one too");
    drop(open);
    services.forget_idle(start + IDLE * 4 - Duration::from_secs(1));
    assert_eq!(known(), 1, "from its end on it is idle");
    services.forget_idle(start + IDLE * 4);
    assert_eq!(known(), 0);
}

#[tokio::test]
async fn answers_are_kept_while_there_is_nobody_to_ask() {
    let services = Services::new(disconnected(), IDLE);
    services.context.stream.opened();
    let (start, known) = (Instant::now(), || services.known.lock().len());
    follow(&services, 0, start).await;
    services.find(address(1), start);
    services.context.stream.failed("the controller is gone");
    services.forget_idle(start + IDLE * 10);
    assert_eq!(known(), 1, "what was never answered is not kept");
    assert!(services.known.lock().contains_key(&address(0)));
    services.context.stream.opened();
    services.forget_idle(start + IDLE * 10);
    assert_eq!(known(), 0);
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::from_bits(host.try_into().unwrap()), 80))
}
