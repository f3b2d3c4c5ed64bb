//! Resources arrive in an order that no server should choose. Requests wait or go where they went; none is lost.

use crate::{
    load::{Load, answers, application, ask},
    over_both,
    proxy::{Asking, Proxy, Variant},
    resources::{cluster, endpoints, listener, routes},
    scripted::Scripted,
};

async fn what_comes_before_what_it_needs_loses_no_request(variant: Variant) {
    let Some(mut server) = Scripted::start(variant).await else {
        return;
    };
    let [port] = weir_testbed::free_ports().unwrap();
    let (one, two) = (application("one").await, application("two").await);
    let _proxy = Proxy::start(server.server.address, variant, Asking::Everything);

    server.give("lds", &[listener("l", port, "r")]).await;
    let first = tokio::spawn(ask(port));
    server.asked_for("rds", "r").await;
    server.give("rds", &[routes("r", "one")]).await;
    server.give("cds", &[cluster("one")]).await;
    server.asked_for("eds", "one").await;
    assert!(
        !first.is_finished(),
        "a request was answered before there was anything to answer it"
    );
    server.give("eds", &[endpoints("one", one)]).await;
    assert_eq!(first.await.unwrap(), (200, "one".to_owned()));

    let mut load = Load::start(port);
    load.goes_on().await;
    server.give("rds", &[routes("r", "two")]).await;
    load.goes_on().await;
    assert_eq!(
        ask(port).await,
        (200, "one".to_owned()),
        "the last good routes serve"
    );
    server.give("cds", &[cluster("one"), cluster("two")]).await;
    server.asked_for("eds", "two").await;
    load.goes_on().await;
    server
        .give("eds", &[endpoints("one", one), endpoints("two", two)])
        .await;
    answers(port, "two").await;
    load.goes_on().await;

    // The old cluster goes, and a listener with other routes comes before them.
    server.take_away("cds", &["one"], &[cluster("two")]).await;
    load.goes_on().await;
    server.give("lds", &[listener("l", port, "s")]).await;
    server.asked_for("rds", "s").await;
    load.goes_on().await;
    server.give("rds", &[routes("s", "two")]).await;
    load.goes_on().await;
    answers(port, "two").await;
}

over_both!(what_comes_before_what_it_needs_loses_no_request);
