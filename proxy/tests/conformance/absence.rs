//! The server goes and comes back.

use serde_json::{Value, json};

use crate::{
    control_plane::{ControlPlane, Manner},
    load::{Load, answers, application, refuses},
    over_both,
    proxy::{Asking, Known, Proxy, Variant},
    resources::{cluster, endpoints, listener, routes},
    scripted::Scripted,
};

/// What the server is told of a type when a stream opens.
async fn first_request(server: &Scripted, kind: &str) -> Value {
    server
        .server
        .request(kind, |request| {
            request["responseNonce"].as_str().unwrap_or_default().is_empty()
        })
        .await
}

async fn a_new_stream_tells_what_is_there(variant: Variant) {
    let Some(mut server) = Scripted::start(variant).await else {
        return;
    };
    let [port] = weir_testbed::free_ports().unwrap();
    let one = application("one").await;
    let _proxy = Proxy::start(server.server.address, variant, Asking::Everything);
    server.give("cds", &[cluster("one")]).await;
    server.asked_for("eds", "one").await;
    server.give("eds", &[endpoints("one", one)]).await;
    server.give("lds", &[listener("l", port, "r")]).await;
    server.asked_for("rds", "r").await;
    server.give("rds", &[routes("r", "one")]).await;
    answers(port, "one").await;

    server.server.close().await;
    server.server.forget();
    answers(port, "one").await;
    server.server.open().await;
    for (kind, name) in [("cds", "one"), ("eds", "one"), ("lds", "l"), ("rds", "r")] {
        let request = first_request(&server, kind).await;
        match variant {
            Variant::Delta => {
                assert_eq!(request["initialResourceVersions"], json!({ name: "1" }), "{kind}");
                let names = &request["resourceNamesSubscribe"];
                match kind {
                    "cds" | "lds" => assert!(names.is_null(), "{names}"),
                    _ => assert_eq!(*names, json!([name])),
                }
            }
            Variant::StateOfTheWorld => {
                let version = request["versionInfo"].as_str().unwrap();
                assert!(version.starts_with("version"), "{kind}: {version:?}");
            }
        }
    }
    let requests = ["cds", "eds", "lds", "rds"].map(|kind| server.server.requests(kind));
    let nodes = requests
        .iter()
        .flatten()
        .filter(|request| !request["node"].is_null());
    assert_eq!(nodes.count(), 1, "the node is told once");
    // What is new since then is taken, and nothing else was asked to be sent again.
    server
        .give("eds", &[endpoints("one", application("two").await)])
        .await;
    answers(port, "two").await;
}

async fn a_long_absence_is_not_noticed_by_requests(variant: Variant) {
    let Some(mut server) = ControlPlane::start(Manner::Ordered).await else {
        return;
    };
    let [port, other] = weir_testbed::free_ports().unwrap();
    let (one, two) = (application("one").await, application("two").await);
    let before = [
        cluster("one"),
        endpoints("one", one),
        listener("l", port, "r"),
        routes("r", "one"),
        listener("m", other, "r"),
    ];
    let proxy = Proxy::start(server.address, variant, Asking::Everything);
    server.set("1", &before).await;
    answers(port, "one").await;
    answers(other, "one").await;
    let mut load = Load::start(port);
    server.close().await;
    load.goes_on().await;
    // Two attempts at least find nobody.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    load.goes_on().await;

    server.open().await;
    let after = [
        cluster("two"),
        endpoints("two", two),
        listener("l", port, "r"),
        routes("r", "two"),
    ];
    server.set("2", &after).await;
    answers(port, "two").await;
    load.goes_on().await;
    refuses(other).await;
    crate::proxy::until("the old cluster is gone", || match proxy.known("cds", "one") {
        Known::Ready(text) => Err(text),
        _ => Ok(()),
    })
    .await;
}

over_both!(
    a_new_stream_tells_what_is_there,
    a_long_absence_is_not_noticed_by_requests,
);
