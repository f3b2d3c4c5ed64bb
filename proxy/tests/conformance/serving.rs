//! Traffic through listeners, routes, clusters and endpoints of another control plane.

use crate::{
    control_plane::{ControlPlane, Manner},
    load::{Load, answers, application, ask, refuses},
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

over_both!(
    listeners_are_bound_followed_and_taken_down,
    a_cluster_that_is_nowhere_fails_alone,
);
