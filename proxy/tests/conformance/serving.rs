//! Traffic through listeners, routes, clusters and endpoints of another control plane.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    control_plane::{ControlPlane, Manner, PATIENCE},
    load::{Load, answers, application, ask, connect, refuses},
    over_both,
    proxy::{Asking, Known, Proxy, Variant},
    resources::{cluster, endpoints, listener, routes},
};

/// The server holds back until everything is asked for, what nobody uses as well.
async fn listeners_are_bound_followed_and_taken_down(variant: Variant) {
    let Some(mut server) = ControlPlane::start(Manner::Ordered).await else {
        return;
    };
    let [port, other] = weir_testbed::free_ports().unwrap();
    let (one, two) = (application("one").await, application("two").await);
    let clusters = [
        cluster("one"),
        endpoints("one", one),
        cluster("two"),
        endpoints("two", two),
    ];
    let with = |more: &[serde_json::Value]| [&clusters[..], more].concat();
    let _proxy = Proxy::start(server.address, variant, Asking::Everything);

    server
        .set("1", &with(&[listener("l", port, "r"), routes("r", "one")]))
        .await;
    answers(port, "one").await;
    let mut load = Load::start(port);
    load.goes_on().await;
    server
        .set("2", &with(&[listener("l", port, "r"), routes("r", "two")]))
        .await;
    answers(port, "two").await;
    server
        .set("3", &with(&[listener("l", port, "s"), routes("s", "one")]))
        .await;
    answers(port, "one").await;
    load.goes_on().await;
    drop(load);

    server
        .set("4", &with(&[listener("l", other, "s"), routes("s", "one")]))
        .await;
    answers(other, "one").await;
    refuses(port).await;
    server.set("5", &clusters).await;
    refuses(other).await;
    server
        .set("6", &with(&[listener("m", other, "r"), routes("r", "two")]))
        .await;
    answers(other, "two").await;
}

/// A server may say nothing of what it does not have.
async fn a_cluster_that_is_nowhere_fails_alone(variant: Variant) {
    let Some(mut server) = ControlPlane::start(Manner::Snapshot).await else {
        return;
    };
    let [good, bad] = weir_testbed::free_ports().unwrap();
    let one = application("one").await;
    let all = [
        cluster("one"),
        endpoints("one", one),
        listener("good", good, "r"),
        routes("r", "one"),
        listener("bad", bad, "s"),
        routes("s", "nowhere"),
    ];
    let proxy = Proxy::start(server.address, variant, Asking::Everything);
    server.set("1", &all).await;
    answers(good, "one").await;
    assert_eq!(ask(bad).await.0, 503);
    assert_eq!(proxy.known("cds", "nowhere"), Known::Absent);
    answers(good, "one").await;
}

/// Asks the admin pages whether the proxy is ready, until they answer with this.
async fn readiness(proxy: &Proxy, expected: &str) {
    let mut last = String::new();
    let asking = async {
        loop {
            let mut wire = connect(proxy.admin).await;
            wire.send("GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .await;
            last = wire.rest().await;
            if last.contains(expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let asked = timeout(PATIENCE, asking).await;
    asked.unwrap_or_else(|_| panic!("/ready says {last:?} in place of {expected:?}"));
}

async fn the_proxy_is_ready_when_all_listeners_are_bound(variant: Variant) {
    let Some(mut server) = ControlPlane::start(Manner::Ordered).await else {
        return;
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (busy, [free]) = (
        taken.local_addr().unwrap().port(),
        weir_testbed::free_ports().unwrap(),
    );
    let proxy = Proxy::start(server.address, variant, Asking::Everything);
    readiness(&proxy, "listeners: not received yet").await;
    let one = application("one").await;
    let all = [
        cluster("one"),
        endpoints("one", one),
        routes("r", "one"),
        listener("busy", busy, "r"),
        listener("free", free, "r"),
    ];
    server.set("1", &all).await;
    answers(free, "one").await;
    readiness(&proxy, "listener busy: received, but").await;
    drop(taken);
    answers(busy, "one").await;
    readiness(&proxy, "LIVE").await;
}

over_both!(
    the_proxy_is_ready_when_all_listeners_are_bound,
    listeners_are_bound_followed_and_taken_down,
    a_cluster_that_is_nowhere_fails_alone,
);
