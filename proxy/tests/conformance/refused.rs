//! What is broken or not supported is refused with its reason; the rest takes effect, and the last good one stays.

use std::time::Duration;

use serde_json::{Value, json};
use weir_proxy::model::{Endpoints, RouteTable, Secret};

use crate::{
    control_plane::{ControlPlane, Manner},
    over_both,
    proxy::{Asking, Known, Proxy, Variant, until},
    resources::{cluster, endpoints, listener, root, routes, secret, unbound, url},
    scripted::{Answer, Scripted, plain},
};

/// A resource with one thing changed.
fn with(mut body: Value, at: &str, value: Value) -> Value {
    let (parent, field) = at.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[field] = value;
    body
}

/// Bytes that are no message.
fn garbage(kind: &str, name: &str) -> Value {
    json!({ "name": name, "version": "1", "type_url": url(kind), "bytes": "////" })
}

/// Resources of a type that are refused, each with the words of its reason.
fn bad(kind: &str, pem: &str) -> Vec<(&'static str, Value, &'static str)> {
    match kind {
        "cds" => vec![
            (
                "no-eds",
                with(
                    cluster("no-eds"),
                    "/eds_cluster_config",
                    json!({ "eds_config": { "path": "/x" } }),
                ),
                "ads: {}",
            ),
            (
                "tls",
                with(
                    cluster("tls"),
                    "/transport_socket",
                    json!({ "name": "t", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" } }),
                ),
                "transport_socket",
            ),
            (
                "time",
                with(cluster("time"), "/connect_timeout", json!("-1s")),
                "connect_timeout",
            ),
        ],
        "eds" => vec![
            (
                "port",
                with(
                    endpoints("port", 1),
                    "/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value",
                    json!(70_000),
                ),
                "70000 is not a port",
            ),
            (
                "host",
                with(
                    endpoints("host", 1),
                    "/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/address",
                    json!("a.b"),
                ),
                "not an IP address",
            ),
        ],
        "sds" => vec![
            ("pem", secret("pem", "not a certificate", "a"), "trusted_ca"),
            (
                "file",
                with(
                    secret("file", pem, "a"),
                    "/validation_context/trusted_ca",
                    json!({ "filename": "/etc/passwd" }),
                ),
                "may not name files",
            ),
        ],
        "lds" => vec![
            (
                "filter",
                with(
                    listener("filter", 1, "r"),
                    "/filter_chains/0/filters/0/typed_config/http_filters",
                    json!([]),
                ),
                "http_filters",
            ),
            ("unreachable", unbound("unreachable", "a"), "named by the address"),
            (
                "10.0.0.8:80",
                with(unbound("10.0.0.8:80", "a"), "/transparent", json!(true)),
                "transparent",
            ),
        ],
        _ => vec![
            (
                "regex",
                with(
                    routes("regex", "c"),
                    "/virtual_hosts/0/routes/0/match",
                    json!({ "safe_regex": { "regex": "(" } }),
                ),
                "regex",
            ),
            (
                "twice",
                with(
                    routes("twice", "c"),
                    "/virtual_hosts/0/domains",
                    json!(["a", "a"]),
                ),
                "\"a\"",
            ),
        ],
    }
}

fn good(kind: &str, pem: &str, version: u16) -> Value {
    match kind {
        "cds" => with(cluster("good"), "/connect_timeout", json!(format!("{version}s"))),
        "eds" => endpoints("good", version),
        "sds" => secret("good", pem, &version.to_string()),
        "lds" => unbound("10.0.0.7:80", &format!("{version}s")),
        _ => routes("good", &version.to_string()),
    }
}

async fn each_is_refused_with_its_reason_and_the_others_take_effect(variant: Variant) {
    let Some(mut server) = Scripted::start(variant).await else {
        return;
    };
    let proxy = Proxy::start(server.server.address, variant, Asking::Everything);
    let (pem, store) = (root(), proxy.store.clone());
    let _endpoints = ["good", "port", "host", "garbage"].map(|name| store.watch::<Endpoints>(name));
    let _secrets = ["good", "pem", "file", "garbage"].map(|name| store.watch::<Secret>(name));
    let _tables = ["good", "regex", "twice", "garbage"].map(|name| store.watch::<RouteTable>(name));
    for (kind, name) in [("eds", "garbage"), ("sds", "garbage"), ("rds", "twice")] {
        server.asked_for(kind, name).await;
    }
    for kind in crate::resources::KINDS {
        let name = if kind == "lds" { "10.0.0.7:80" } else { "good" };
        server.give(kind, &[good(kind, &pem, 11)]).await;
        let bad = bad(kind, &pem);
        let mut resources: Vec<_> = bad.iter().map(|(_, body, _)| plain(body)).collect();
        resources.insert(1, plain(&good(kind, &pem, 22)));
        let Answer::Nack(reason) = server.send(kind, &resources).await else {
            panic!("{kind}: an ACK");
        };
        for (bad_name, _, words) in &bad {
            let named = format!("{kind} {bad_name:?}");
            assert!(
                reason.contains(&named) && reason.contains(words),
                "{named} {words}: {reason}"
            );
            assert!(!matches!(proxy.known(kind, bad_name), Known::Ready(_)), "{named}");
            assert!(proxy.error(kind, bad_name).is_some(), "{named} is not shown");
        }
        assert!(!reason.contains(&format!("{kind} {name:?}")), "{reason}");
        proxy.has(kind, name, "22").await;

        // The last good one stays, whatever comes: garbage, one twice, another's name.
        let twice = [plain(&good(kind, &pem, 22)), plain(&good(kind, &pem, 22))];
        for broken in [&[garbage(kind, name)][..], &twice[..]] {
            assert!(
                matches!(server.send(kind, broken).await, Answer::Nack(_)),
                "{kind}"
            );
            proxy.has(kind, name, "22").await;
        }
        let mut other = plain(&good(kind, &pem, 33));
        other["name"] = "other".into();
        other["ttl"] = "1h".into();
        assert!(
            matches!(server.send(kind, &[other]).await, Answer::Nack(_)),
            "{kind}"
        );
        assert!(
            matches!(proxy.known(kind, name), Known::Ready(text) if text.contains("22")),
            "{kind}"
        );
        server.give(kind, &[good(kind, &pem, 44)]).await;
        proxy.has(kind, name, "44").await;
    }
}

/// go-control-plane sends again at once what was refused, in the state of the world.
async fn a_server_that_insists_does_not_make_the_proxy_spin(variant: Variant) {
    let Some(mut server) = ControlPlane::start(Manner::Snapshot).await else {
        return;
    };
    let proxy = Proxy::start(server.address, variant, Asking::Everything);
    let fine = unbound("10.0.0.7:80", "mark-1");
    let broken = with(unbound("10.0.0.8:80", "mark-1"), "/transparent", json!(true));
    server.set("1", &[fine, broken]).await;
    proxy.has("lds", "10.0.0.7:80", "mark-1").await;
    until("a reason", || proxy.error("lds", "10.0.0.8:80").ok_or("none")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = server
        .requests("lds")
        .into_iter()
        .filter(|request| !request["errorDetail"].is_null());
    let refused = refused.count();
    assert!((1..=5).contains(&refused), "{refused} refusals in two seconds");
    server
        .set(
            "2",
            &[unbound("10.0.0.7:80", "mark-2"), unbound("10.0.0.8:80", "mark-2")],
        )
        .await;
    for name in ["10.0.0.7:80", "10.0.0.8:80"] {
        proxy.has("lds", name, "mark-2").await;
    }
}

over_both!(
    each_is_refused_with_its_reason_and_the_others_take_effect,
    a_server_that_insists_does_not_make_the_proxy_spin,
);
