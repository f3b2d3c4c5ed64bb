//! A new route is put in force only when the cluster that it names has arrived.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod pair;

use std::sync::Arc;

use pair::{Pair, Wire, soon};
use weir_proxy::{
    model::{
        Action, Cluster, Http, Listener, Rbac, Route, RouteAction, RouteSource, RouteTable, Terminal,
        WeightedCluster,
    },
    xds::State,
};

/// The listener with all its routes leading to this cluster.
fn rerouted(listener: &Listener, cluster: &str) -> Listener {
    let mut listener = listener.clone();
    for chain in &mut listener.chains {
        let Terminal::Http(http) = &mut Arc::make_mut(chain).terminal else {
            continue;
        };
        let RouteSource::Inline(table) = &http.routes else {
            continue;
        };
        let mut table = RouteTable::clone(table);
        for route in table.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
            let mut changed = Route::clone(route);
            if let RouteAction::Forward(destination) = &mut changed.action {
                destination.clusters = vec![WeightedCluster {
                    cluster: cluster.to_owned(),
                    weight: 1,
                }];
            }
            *route = Arc::new(changed);
        }
        *http = Arc::new(Http {
            routes: RouteSource::Inline(Arc::new(table)),
            ..Http::clone(http)
        });
    }
    listener
}

#[tokio::test]
async fn a_route_to_a_cluster_on_its_way_loses_no_request() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.inbound).await;
    let get = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";
    client.send(get).await;
    let mut app = pair.accept().await;
    app.head().await;
    app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    client.head().await;

    let listener = soon(pair.store.watch::<Listener>("inbound-http").answered())
        .await
        .unwrap();
    pair.store.reserve::<Cluster>("later");
    pair.store.publish(
        "inbound-http",
        State::Ready(Arc::new(rerouted(&listener, "later"))),
    );
    for _ in 0..20 {
        client.send(get).await;
        app.head().await;
        app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert!(client.head().await.starts_with("http/1.1 204"));
    }

    let cluster = soon(pair.store.watch::<Cluster>("application").answered())
        .await
        .unwrap();
    let later = Cluster {
        name: "later".to_owned(),
        ..Cluster::clone(&cluster)
    };
    pair.store.publish("later", State::Ready(Arc::new(later)));
    // The new cluster has a pool of its own, so the application sees a new connection.
    let mut fresh = soon(async {
        loop {
            client.send(get).await;
            tokio::select! {
                fresh = pair.accept() => return fresh,
                _ = app.head() => {
                    app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
                    client.head().await;
                }
            }
        }
    })
    .await;
    fresh.head().await;
    fresh.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("http/1.1 204"));
}

#[tokio::test]
async fn what_a_waiting_version_forbids_is_forbidden_at_once() {
    let pair = Pair::start().await;
    let mut client = Wire::connect(pair.inbound).await;
    let get = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";
    client.send(get).await;
    let mut app = pair.accept().await;
    app.head().await;
    app.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    client.head().await;

    let listener = soon(pair.store.watch::<Listener>("inbound-http").answered())
        .await
        .unwrap();
    let mut closed = rerouted(&listener, "never");
    for chain in &mut closed.chains {
        if let Terminal::Http(http) = &mut Arc::make_mut(chain).terminal {
            let nobody = Rbac {
                action: Action::Allow,
                policies: Vec::new(),
            };
            *http = Arc::new(Http {
                rbac: Some(Some(Arc::new(nobody))),
                ..Http::clone(http)
            });
        }
    }
    pair.store.reserve::<Cluster>("never");
    pair.store.publish("inbound-http", State::Ready(Arc::new(closed)));
    let asked = std::time::Instant::now();
    // The connection of whom nothing is let in any more ends.
    soon(client.stream.readable()).await.unwrap();
    assert_eq!(client.rest().await, "");
    let mut client = Wire::connect(pair.inbound).await;
    client.send(get).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
    assert!(asked.elapsed().as_secs() < 10, "it was waited for");
}
