//! Changes of a service under load: requests see the state before or the one after, and nothing in between.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pair::{Pair, Wire, soon};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use weir_proxy::{
    model::{
        Cluster, Discovery, Endpoint, Endpoints, Http, Listener, RouteAction, RouteSource, RouteTable,
        Terminal, WeightedCluster,
    },
    xds::State,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";
const LISTENER: &str = "inbound-http";
const ROUTES: &str = "routes";

/// A server that answers every request with its name.
async fn server(name: &'static str) -> SocketAddr {
    serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), name)
}

fn serve(listener: TcpListener, name: &'static str) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = Wire::new(stream);
                while wire.next_head().await.is_some() {
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}\n",
                        name.len() + 1
                    );
                    wire.send(answer).await;
                }
            });
        }
    });
    address
}

/// One whole state of the service: its traffic goes to two clusters, half and half.
struct Whole {
    clusters: [String; 2],
    servers: [SocketAddr; 2],
}

/// What is told apart: the routes, and each cluster and its endpoints.
const PARTS: usize = 5;

struct Mesh {
    pair: Pair,
    table: RouteTable,
    cluster: Cluster,
}

impl Mesh {
    /// The listener with its routes on their own, to be told of each state. Until the first one is in force, requests
    /// go to the server that is given too.
    async fn start(before: &'static str) -> (Self, SocketAddr) {
        let mut pair = Pair::start().await;
        let application = serve(pair.take_application(), before);
        let listener = soon(pair.store.watch::<Listener>(LISTENER).answered())
            .await
            .unwrap();
        let cluster = soon(pair.store.watch::<Cluster>("application").answered())
            .await
            .unwrap();
        let (mut listener, mut table) = (Listener::clone(&listener), None);
        for chain in &mut listener.chains {
            if let Terminal::Http(http) = &mut Arc::make_mut(chain).terminal {
                if let RouteSource::Inline(inline) = &http.routes {
                    table = Some(RouteTable::clone(inline));
                }
                *http = Arc::new(Http {
                    routes: RouteSource::Rds(ROUTES.to_owned()),
                    ..Http::clone(http)
                });
            }
        }
        pair.store.reserve::<RouteTable>(ROUTES);
        pair.store.publish(LISTENER, State::Ready(Arc::new(listener)));
        let mesh = Self {
            pair,
            table: table.unwrap(),
            cluster: Cluster::clone(&cluster),
        };
        (mesh, application)
    }

    /// Says that these resources are yet to come.
    fn reserve(&self, whole: &Whole) {
        for name in &whole.clusters {
            self.pair.store.reserve::<Cluster>(name);
            self.pair.store.reserve::<Endpoints>(name);
        }
    }

    fn tell(&self, whole: &Whole, part: usize) {
        let store = &self.pair.store;
        match part {
            0 => {
                let clusters = whole.clusters.iter().map(|cluster| WeightedCluster {
                    cluster: cluster.clone(),
                    weight: 1,
                });
                let (clusters, mut table): (Vec<_>, _) = (clusters.collect(), self.table.clone());
                for route in table.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
                    if let RouteAction::Forward(destination) = &mut Arc::make_mut(route).action {
                        destination.clusters.clone_from(&clusters);
                    }
                }
                store.publish(ROUTES, State::Ready(Arc::new(table)));
            }
            1 | 2 => {
                let name = &whole.clusters[part - 1];
                let cluster = Cluster {
                    name: name.clone(),
                    discovery: Discovery::Eds(name.clone()),
                    ..self.cluster.clone()
                };
                store.publish(name, State::Ready(Arc::new(cluster)));
            }
            _ => self.endpoints(&whole.clusters[part - 3], &[whole.servers[part - 3]]),
        }
    }

    fn endpoints(&self, cluster: &str, addresses: &[SocketAddr]) {
        let endpoint = |address: &SocketAddr| Endpoint {
            address: *address,
            weight: 1,
            principal: None,
            workload: Arc::default(),
        };
        let endpoints = addresses.iter().map(endpoint).collect();
        self.pair
            .store
            .publish(cluster, State::Ready(Arc::new(Endpoints { endpoints })));
    }
}

/// One request over a connection of its own, or over one that is kept.
async fn ask(wire: &mut Wire) -> String {
    wire.send(GET).await;
    let head = wire.head().await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    wire.until("\n").await.trim_end().to_owned()
}

/// Clients without a pause, and what they may be told.
struct Load {
    /// The state that answers have to come from: none before, none after; between two, either.
    allowed: watch::Sender<(usize, usize)>,
    answers: Arc<[AtomicUsize; 2]>,
    clients: JoinSet<()>,
}

/// The number of the state and of the half of it that answers.
fn read(answer: &str) -> (usize, usize) {
    let (state, half) = answer.split_once('-').unwrap();
    (state.parse().unwrap(), half.parse().unwrap())
}

impl Load {
    fn start(to: SocketAddr) -> Self {
        let (allowed, _) = watch::channel((0, 0));
        let answers: Arc<[AtomicUsize; 2]> = Arc::default();
        let mut clients = JoinSet::new();
        for keeps in [true, true, false] {
            let (allowed, answers) = (allowed.subscribe(), answers.clone());
            clients.spawn(async move {
                let mut wire = Wire::connect(to).await;
                loop {
                    if !keeps {
                        wire = Wire::connect(to).await;
                    }
                    let before = *allowed.borrow();
                    let (state, half) = read(&ask(&mut wire).await);
                    let after = *allowed.borrow();
                    let fine = [before.0, before.1, after.0, after.1].contains(&state);
                    assert!(fine, "{state} answers, allowed is {before:?} to {after:?}");
                    answers[half].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            allowed,
            answers,
            clients,
        }
    }

    fn answered(&self) -> usize {
        self.answers
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Waits for some more answers; fails when a client has failed.
    async fn more(&mut self) {
        let wanted = self.answered() + 12;
        while self.answered() < wanted {
            if let Ok(Some(ended)) = timeout(Duration::from_millis(1), self.clients.join_next()).await {
                ended.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_sees_the_whole_of_a_change_or_nothing_of_it() {
    let (mesh, application) = Mesh::start("0-0").await;
    let servers = [
        [application, server("0-1").await],
        [server("1-0").await, server("1-1").await],
    ];
    let whole = |version: usize| Whole {
        clusters: [0, 1].map(|half| format!("v{version}-{half}")),
        servers: servers[version % 2],
    };
    let first = whole(0);
    (0..PARTS).for_each(|part| mesh.tell(&first, part));
    let mut load = Load::start(mesh.pair.inbound);
    load.more().await;
    // Every part comes last once, in orders that servers are told to avoid too.
    for version in 1..=10 {
        let (old, new) = ((version - 1) % 2, version % 2);
        let (before, now) = (whole(version - 1), whole(version));
        mesh.reserve(&now);
        let order: Vec<usize> = (0..PARTS)
            .map(|step| (version + step * (1 + version % 4)) % PARTS)
            .collect();
        for part in &order[..PARTS - 1] {
            mesh.tell(&now, *part);
            load.more().await;
        }
        load.allowed.send_replace((old, new));
        mesh.tell(&now, order[PARTS - 1]);
        let begun = Instant::now();
        let mut wire = Wire::connect(mesh.pair.inbound).await;
        while read(&ask(&mut wire).await).0 != new {
            assert!(begun.elapsed() < pair::LIMIT, "{version} does not take effect");
        }
        // From then on nothing of the old one is seen, and its endpoints can go.
        load.allowed.send_replace((new, new));
        before
            .clusters
            .iter()
            .for_each(|cluster| mesh.endpoints(cluster, &[]));
        load.more().await;
        for half in load.answers.iter() {
            assert!(half.load(Ordering::Relaxed) > 0, "{:?}", load.answers);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_go_before_the_routes_change_fail_no_request() {
    let (mesh, application) = Mesh::start("0-0").await;
    let servers = [
        [application, server("0-1").await],
        [server("1-0").await, server("1-1").await],
    ];
    let whole = |version: usize| Whole {
        clusters: [0, 1].map(|half| format!("v{version}-{half}")),
        servers: servers[version % 2],
    };
    (0..PARTS).for_each(|part| mesh.tell(&whole(0), part));
    let mut load = Load::start(mesh.pair.inbound);
    load.allowed.send_replace((0, 1));
    load.more().await;
    for version in 1..=6 {
        let (before, now) = (whole(version - 1), whole(version));
        mesh.reserve(&now);
        before
            .clusters
            .iter()
            .for_each(|cluster| mesh.endpoints(cluster, &[]));
        mesh.tell(&now, 0);
        // Long enough for requests to be in the middle of it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        (1..PARTS).for_each(|part| mesh.tell(&now, part));
        load.more().await;
    }
}

/// Waits until requests come to this server; they are answered by the one before until then.
async fn in_force(mesh: &Mesh, server: &TcpListener) {
    loop {
        let mut client = Wire::connect(mesh.pair.inbound).await;
        let answered = tokio::select! {
            answer = ask(&mut client) => answer,
            reached = server.accept() => {
                let mut app = Wire::new(reached.unwrap().0);
                app.head().await;
                app.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
                return;
            }
        };
        assert_eq!(answered, "before");
    }
}

#[tokio::test]
async fn an_endpoint_taken_away_gets_nothing_new_and_ends_what_it_has() {
    let (mesh, _) = Mesh::start("before").await;
    let (leaving, staying) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        server("0-1").await,
    );
    let leaves = leaving.local_addr().unwrap();
    let whole = Whole {
        clusters: ["a".to_owned(), "b".to_owned()],
        servers: [leaves, leaves],
    };
    (0..PARTS).for_each(|part| mesh.tell(&whole, part));
    in_force(&mesh, &leaving).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Wire::connect(mesh.pair.inbound).await;
        client.send(GET).await;
        clients.push(client);
    }
    let mut running = Vec::new();
    for client in &mut clients {
        let mut app = Wire::new(soon(leaving.accept()).await.unwrap().0);
        app.head().await;
        app.send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await;
        running.push(app);
        let _ = client;
    }
    for client in &mut clients {
        client.until("half").await;
    }
    // One more connection, idle in the pool.
    let mut idle = Wire::connect(mesh.pair.inbound).await;
    idle.send(GET).await;
    let mut kept = Wire::new(soon(leaving.accept()).await.unwrap().0);
    kept.head().await;
    kept.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    idle.until("ok").await;

    whole
        .clusters
        .iter()
        .for_each(|cluster| mesh.endpoints(cluster, &[staying]));
    // The idle connection is closed: the endpoint is out of use.
    assert_eq!(kept.rest().await, "");
    for _ in 0..50 {
        let mut client = Wire::connect(mesh.pair.inbound).await;
        assert_eq!(ask(&mut client).await, "0-1");
        assert_eq!(ask(&mut idle).await, "0-1");
    }
    let reached = timeout(Duration::from_millis(1), leaving.accept()).await;
    assert!(reached.is_err(), "a new connection to it");
    for (mut app, mut client) in running.into_iter().zip(clients) {
        app.send("more").await;
        assert_eq!(client.until("more").await, "more");
        assert_eq!(ask(&mut client).await, "0-1");
    }
}
