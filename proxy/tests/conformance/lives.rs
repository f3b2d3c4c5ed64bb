//! Resources with a time to live.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir_proxy::model::Endpoints;

use crate::{
    control_plane::{ControlPlane, Manner},
    over_both,
    proxy::{Asking, Known, Proxy, Variant},
    resources::{endpoints, unbound},
    scripted::{Answer, Scripted, plain},
};

const ADDRESS: &str = "10.0.0.1:80";

fn living(body: &Value, ttl: &str) -> Value {
    let mut resource = plain(body);
    resource["ttl"] = ttl.into();
    resource
}

fn heartbeat(name: &str, ttl: &str) -> Value {
    json!({ "name": name, "version": "1", "ttl": ttl })
}

async fn what_is_not_prolonged_is_gone(variant: Variant) {
    let Some(mut server) = Scripted::start(variant).await else {
        return;
    };
    let proxy = Proxy::start(server.server.address, variant, Asking::Everything);
    let _wanted = ["short", "long", "clock"].map(|name| proxy.store.watch::<Endpoints>(name));
    server.asked_for("eds", "short").await;
    let listener = living(&unbound(ADDRESS, "mark"), "5s");
    assert_eq!(server.send("lds", &[listener]).await, Answer::Ack);
    let all = [("short", "5s"), ("long", "5s"), ("clock", "6s")];
    let resources = all.map(|(name, ttl)| living(&endpoints(name, 80), ttl));
    assert_eq!(server.send("eds", &resources).await, Answer::Ack);
    assert_eq!(server.send("eds", &[heartbeat("long", "1h")]).await, Answer::Ack);
    assert!(matches!(proxy.known("lds", ADDRESS), Known::Ready(_)));
    assert!(matches!(proxy.known("eds", "short"), Known::Ready(_)));

    proxy.lacks("eds", "clock").await;
    assert_eq!(proxy.known("eds", "short"), Known::Absent);
    assert_ne!(proxy.known("lds", ADDRESS), Known::Ready(String::new()));
    assert!(!matches!(proxy.known("lds", ADDRESS), Known::Ready(_)));
    assert!(
        matches!(proxy.known("eds", "long"), Known::Ready(_)),
        "it was prolonged"
    );

    // Nothing is prolonged that is gone, and what is gone can come back to stay.
    assert_eq!(server.send("eds", &[heartbeat("short", "1h")]).await, Answer::Ack);
    assert_eq!(proxy.known("eds", "short"), Known::Absent);
    server.give("eds", &[endpoints("short", 81)]).await;
    proxy.has("eds", "short", "81").await;
    let Answer::Nack(reason) = server.send("eds", &[living(&endpoints("long", 82), "-1s")]).await else {
        panic!("a life that ends before it begins was taken");
    };
    assert!(reason.contains("eds \"long\": ttl"), "{reason}");
}

/// go-control-plane prolongs, in the state of the world only, until it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_keep_alive_until_they_end() {
    let Some(mut server) = ControlPlane::start(Manner::Snapshot).await else {
        return;
    };
    let proxy = Proxy::start(server.address, Variant::StateOfTheWorld, Asking::Everything);
    let _wanted = proxy.store.watch::<Endpoints>("e");
    let resource = json!({ "body": endpoints("e", 80), "ttl": "4s" });
    server
        .tell(json!({ "do": "set", "version": "1", "resources": [resource] }))
        .await;
    proxy.has("eds", "e", "80").await;
    let lived = Instant::now();
    while lived.elapsed() < Duration::from_secs(6) {
        assert!(matches!(proxy.known("eds", "e"), Known::Ready(_)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.close().await;
    assert!(matches!(proxy.known("eds", "e"), Known::Ready(_)));
    proxy.lacks("eds", "e").await;
}

over_both!(what_is_not_prolonged_is_gone);
