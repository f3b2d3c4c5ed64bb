//! Odd names, and responses that are too large.

use serde_json::json;
use weir_proxy::{model::Endpoints, xds::Store};

use crate::{
    control_plane::{ControlPlane, Manner},
    load::{answers, application},
    over_both,
    proxy::{Asking, Proxy, Variant, until},
    resources::{cluster, endpoints, listener, routes},
    scripted::Scripted,
};

fn odd_names() -> Vec<String> {
    let names = [
        " ",
        "a b",
        "a/b|c%2F?#&=+",
        "ünïcödé 名前 🦀",
        "\"'`\\",
        "\t\n\r",
        "../..",
        "10.0.0.1:80",
        "null",
        "outbound|80||a.b.svc",
        "xdstp",
        ".",
        "-",
        "\u{0}",
        "\u{202e}gpj",
    ];
    let long = "n".repeat(10_000);
    names.into_iter().map(str::to_owned).chain([long]).collect()
}

async fn odd_names_are_names(variant: Variant) {
    let Some(mut server) = ControlPlane::start(Manner::Ordered).await else {
        return;
    };
    let ports: [u16; 16] = weir_testbed::free_ports().unwrap();
    let names = odd_names();
    let one = application("one").await;
    let all = names.iter().zip(ports).flat_map(|(name, port)| {
        [
            cluster(name),
            endpoints(name, one),
            listener(name, port, name),
            routes(name, name),
        ]
    });
    let _proxy = Proxy::start(server.address, variant, Asking::Everything);
    server.set("1", &all.collect::<Vec<_>>()).await;
    assert_eq!(names.len(), ports.len());
    for port in ports {
        answers(port, "one").await;
    }
}

/// Larger than the 64 MiB that a response may have.
const TOO_LARGE: usize = 65 << 20;

async fn a_response_that_is_too_large_is_refused_with_its_stream(variant: Variant) {
    let Some(mut server) = Scripted::start(variant).await else {
        return;
    };
    let proxy = Proxy::start(server.server.address, variant, Asking::Everything);
    let _wanted = proxy.store.watch::<Endpoints>("e");
    server.asked_for("eds", "e").await;
    server.give("eds", &[endpoints("e", 80)]).await;
    server.server.forget();
    server.speak("eds", json!({ "padding": TOO_LARGE })).await;
    let said = until("the reason", || proxy.stream_error().ok_or("none")).await;
    assert!(said.contains("67108864") && said.contains("too large"), "{said}");
    proxy.has("eds", "e", "80").await;
    // The next stream serves, after the longest pause.
    server.asked_for("eds", "e").await;
    server.server.forget();
    assert_eq!(still_there(&proxy.store), Some(80));
}

fn still_there(store: &Store) -> Option<u16> {
    let state = store.peek::<Endpoints>("e")?;
    let port = state.ready()?.endpoints.first()?.address.port();
    Some(port)
}

over_both!(
    odd_names_are_names,
    a_response_that_is_too_large_is_refused_with_its_stream,
);
