//! What sidecars show to Prometheus, and to who has a shell in the pod.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::SystemTime};

use anyhow::{Context, ensure};
use hyper::Request;
use tokio::io::AsyncWriteExt;

use crate::{
    Outcome, Tests, client,
    exposition::{self, Scrape},
    manifest::{allow_http, member, outsider, routes, service, target},
    scene::Scene,
    server,
    world::World,
};

const ADMIN: u16 = 15000;
const STATS: u16 = 15010;
const WEB: &str = "{name: http-web, port: 8080}";
const CALLS: usize = 5;

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "metrics::requests_are_counted_between_the_pods_they_pass",
        requests,
    );
    tests.add("metrics::what_is_refused_is_counted_by_reason", refusals);
    tests.add(
        "metrics::certificate_endpoints_and_configuration_are_shown",
        state,
    );
    tests.add("metrics::clients_cannot_add_label_values", bounded);
    tests.add("admin::pages_are_for_the_pod_alone", pages);
}

/// A client and a server that is reached already, from another pod: the client's counts are its own.
async fn stage(world: &Arc<World>, namespace: &str) -> anyhow::Result<Scene> {
    let parts = [
        member("client"),
        member("other"),
        member("server"),
        service("server", WEB),
        allow_http("server", &["client", "other"]),
    ];
    let scene = Scene::open(Arc::clone(world), namespace, &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    let to = scene.service("server", 8080)?;
    let reached = || async { scene.get("other", to, "/").await?.expect(200) };
    scene.eventually("the server is reached", reached).await?;
    Ok(scene)
}

async fn requests(world: Arc<World>) -> Outcome {
    let scene = stage(&world, "metrics-requests").await?;
    let to = scene.service("server", 8080)?;
    for _ in 0..CALLS {
        scene.get("client", to, "/").await?.expect(200)?;
    }
    let labels = [
        ("source_namespace", "metrics-requests"),
        ("source_kind", "Pod"),
        ("source_name", "client"),
        ("source_pod", "client"),
        ("destination_namespace", "metrics-requests"),
        ("destination_kind", "Pod"),
        ("destination_name", "server"),
        ("destination_pod", "server"),
    ];
    let named = |more: &[(&str, &str)]| -> BTreeMap<String, String> {
        let all = labels.iter().chain(more);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    for path in ["/stats/prometheus", "/metrics"] {
        let page = exposition::page(&world, &scene.pod("client"), STATS, path).await?;
        let kind = page.header("content-type");
        ensure!(
            kind.starts_with("application/openmetrics-text") || kind.starts_with("text/plain"),
            "{path} is {kind}"
        );
        let scrape = Scrape::read(&page.body)?;
        let counted: Vec<_> = scrape.of("osm_request_total", &[]).collect();
        ensure!(
            counted.len() == 1
                && counted[0].value == 5.0
                && counted[0].labels == named(&[("response_code", "200")]),
            "{path}: {counted:?}"
        );
        let all = scrape
            .of("osm_request_duration_ms_bucket", &[("le", "+Inf")])
            .collect::<Vec<_>>();
        ensure!(
            all.len() == 1 && all[0].value == 5.0 && all[0].labels == named(&[("le", "+Inf")]),
            "{path}: {all:?}"
        );
        ensure!(
            scrape.sum("osm_request_duration_ms_count", &labels) == 5.0,
            "{path}: the count is not 5"
        );
        ensure!(
            scrape.sum("osm_request_duration_ms_sum", &labels) > 0.0,
            "{path}: the sum is 0"
        );
    }
    let server = exposition::sidecar(&world, &scene.pod("server")).await?;
    ensure!(
        server.of("osm_request_total", &[]).count() == 0,
        "the server's side counts requests too"
    );
    Ok(())
}

async fn refusals(world: Arc<World>) -> Outcome {
    let parts = [
        member("client"),
        member("other"),
        member("server"),
        outsider("stranger"),
        service("server", WEB),
        routes(
            "web",
            "{name: shared, pathRegex: '/shared', methods: ['*']}, {name: own, pathRegex: '/own', methods: ['*']}",
        ),
        target("server", &["client"], "HTTPRouteGroup", "web", "own"),
        target("server", &["client", "other"], "HTTPRouteGroup", "web", "shared"),
    ];
    let scene = Scene::open(Arc::clone(&world), "metrics-refusals", &parts).await?;
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    let to = scene.service("server", 8080)?;
    for pod in ["client", "other"] {
        let reached = || async { scene.get(pod, to, "/shared").await?.expect(200) };
        scene.eventually("the server is reached", reached).await?;
    }
    let server = scene.pod("server");
    let before = exposition::sidecar(&world, &server).await?;
    for _ in 0..CALLS {
        scene.get("other", to, "/own").await?.expect(403)?;
        scene.get("client", to, "/none").await?.expect(404)?;
        let ip = *scene.pod_ips("server")?.first().context("no address")?;
        let plain = scene.dial("stranger", SocketAddr::new(ip, 8080)).await;
        client::refused(plain, b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await?;
    }
    let counted = || async {
        let after = exposition::sidecar(&world, &server).await?;
        let grown = |name: &str, reason: &str| {
            let labels = [("direction", "inbound"), ("reason", reason)];
            after.sum(name, &labels) - before.sum(name, &labels)
        };
        for (name, reason) in [
            ("weir_responses_total", "rbac_request"),
            ("weir_responses_total", "no_route"),
            ("weir_denied_total", "no_filter_chain"),
        ] {
            let count = grown(name, reason);
            ensure!(count == 5.0, "{name} of {reason} has grown by {count}\n{after:?}");
        }
        Ok(())
    };
    scene.eventually("each refusal is counted", counted).await?;
    let after = exposition::sidecar(&world, &scene.pod("other")).await?;
    let denied = after.sum("osm_request_total", &[("response_code", "403")]);
    ensure!(denied == 5.0, "the client's side counts {denied} refusals");
    Ok(())
}

async fn state(world: Arc<World>) -> Outcome {
    let scene = stage(&world, "metrics-state").await?;
    let to = scene.service("server", 8080)?;
    let mut open = scene.dial("client", to).await?;
    open.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await?;
    client::head(&mut open).await?;
    let scrape = exposition::sidecar(&world, &scene.pod("client")).await?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs_f64();
    let expiry = scrape.sum("weir_certificate_expiry_seconds", &[]);
    ensure!(
        expiry > now && expiry < now + 60.0,
        "the certificate expires in {} s",
        expiry - now
    );
    let endpoints =
        |scrape: &Scrape| scrape.sum("weir_endpoints", &[("service", "metrics-state/server|8080")]);
    let families = scene.pod_ips("server")?.len();
    let wanted = f64::from(u32::try_from(families)?);
    ensure!(
        endpoints(&scrape) == wanted || endpoints(&scrape) == 1.0,
        "the server has {} endpoints",
        endpoints(&scrape)
    );
    for (name, labels, wanted) in [
        ("weir_xds_connected", &[][..], 1.0),
        ("weir_config_age_seconds", &[], 0.0),
        ("weir_connections_open", &[("direction", "outbound")], 1.0),
    ] {
        let value = scrape.sum(name, labels);
        ensure!(value == wanted, "{name} is {value} instead of {wanted}");
    }
    for (name, labels) in [
        (
            "weir_config_updates_total",
            &[("type", "listener"), ("result", "ack")][..],
        ),
        ("weir_config_version_info", &[("type", "cluster")]),
        (
            "weir_tls_handshakes_total",
            &[("direction", "outbound"), ("result", "success")],
        ),
        (
            "weir_connections_opened_total",
            &[("direction", "outbound"), ("protocol", "http")],
        ),
        (
            "weir_bytes_total",
            &[("direction", "outbound"), ("flow", "received")],
        ),
        ("weir_bytes_total", &[("direction", "outbound"), ("flow", "sent")]),
        ("weir_build_info", &[]),
    ] {
        ensure!(
            scrape.sum(name, labels) > 0.0,
            "{name} {labels:?} is 0: {scrape:?}"
        );
    }
    let nacks = scrape.sum("weir_config_updates_total", &[("result", "nack")]);
    ensure!(nacks == 0.0, "{nacks} updates were refused");
    // An endpoint that goes is not counted any more.
    world.mesh().testbed().delete_pod(&scene.pod("server")).await?;
    let gone = || async {
        let scrape = exposition::sidecar(&world, &scene.pod("client")).await?;
        let left = endpoints(&scrape);
        ensure!(left == 0.0 || left < wanted, "there are {left} endpoints");
        Ok(())
    };
    scene.eventually("the endpoint is gone", gone).await
}

async fn bounded(world: Arc<World>) -> Outcome {
    let scene = stage(&world, "metrics-bounded").await?;
    let to = scene.service("server", 8080)?;
    scene.get("client", to, "/").await?.expect(200)?;
    let series = |scrape: &Scrape| scrape.0.len();
    let pods = ["client", "server"].map(|pod| scene.pod(pod));
    let mut before = Vec::new();
    for pod in &pods {
        before.push(series(&exposition::sidecar(&world, pod).await?));
    }
    for number in 0..100 {
        let request = Request::builder()
            .method(["GET", "PUT", "DELETE", "OPTIONS"][number % 4])
            .uri(format!("/path-{number}?query={number}"))
            .header("host", format!("server-{number}.example"))
            .header("user-agent", format!("agent-{number}"))
            .header("osm-stats-pod", format!("made-up-{number}"))
            .header("x-osm-name", format!("made-up-{number}"));
        client::request(scene.dial("client", to).await?, request)
            .await?
            .expect(200)?;
    }
    for (pod, before) in pods.iter().zip(before) {
        let scrape = exposition::sidecar(&world, pod).await?;
        let made_up = scrape.0.iter().find(|sample| {
            sample.labels.values().any(|value| {
                value.contains("made-up") || value.contains("path-") || value.contains("example")
            })
        });
        ensure!(made_up.is_none(), "{pod} shows {made_up:?}");
        let after = series(&scrape);
        ensure!(after == before, "{pod} shows {after} series, and had {before}");
    }
    Ok(())
}

async fn pages(world: Arc<World>) -> Outcome {
    let scene = stage(&world, "admin-pages").await?;
    let to = scene.service("server", 8080)?;
    scene.get("client", to, "/").await?.expect(200)?;
    let pod = scene.pod("client");
    for (path, holds) in [
        ("/ready", "LIVE"),
        ("/live", "LIVE"),
        ("/config_dump", "admin-pages/server|8080"),
        ("/certs", "spiffe://cluster.local/ns/admin-pages/sa/client"),
        ("/clusters", "spiffe://cluster.local/ns/admin-pages/sa/server"),
        ("/logging", "level: "),
        ("/metrics", "osm_request_total"),
        ("/stats/prometheus", "osm_request_total"),
    ] {
        let page = world.mesh().get_local(&pod, ADMIN, path).await?;
        ensure!(page.status == 200, "{path} is answered with {}", page.status);
        ensure!(
            page.body.contains(holds),
            "{path} does not hold {holds}:\n{}",
            page.body
        );
    }
    for path in ["/config_dump", "/certs"] {
        let page = world.mesh().get_local(&pod, ADMIN, path).await?;
        let _json: serde_json::Value =
            serde_json::from_str(&page.body).with_context(|| format!("{path} is not JSON"))?;
    }
    let loopback = SocketAddr::from(([127, 0, 0, 1], ADMIN));
    for (level, wanted) in [("debug", 200), ("loud", 400)] {
        let stream = world.mesh().dial(&pod, loopback).await?;
        let change = Request::post(format!("/logging?level={level}")).header("host", "localhost");
        client::request(stream, change).await?.expect(wanted)?;
    }
    let level = world.mesh().get_local(&pod, ADMIN, "/logging").await?.body;
    ensure!(level.contains("debug"), "the level is {level}");

    // Neither the node nor another pod, inside the mesh or out of it, gets anything of them.
    scene.apply("stranger", &[outsider("stranger")])?;
    scene.ready().await?;
    let ask = b"GET /config_dump HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for ip in scene.pod_ips("client")? {
        let admin = SocketAddr::new(ip, ADMIN);
        let from_node = tokio::net::TcpStream::connect(admin).await;
        client::refused(from_node.map_err(Into::into), ask).await?;
        for from in ["other", "stranger"] {
            client::refused(scene.dial(from, admin).await, ask).await?;
        }
    }
    Ok(())
}
