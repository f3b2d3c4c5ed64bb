//! Who may do what.

use std::sync::Arc;

use anyhow::ensure;
use hyper::Request;

use crate::{
    Outcome, Tests, client,
    manifest::{allow_http, allow_tcp, member, outsider, routes, service, target},
    scene::Scene,
    server,
    world::World,
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "authorize::a_named_client_is_let_in_and_another_gets_403_with_a_reason",
        identities,
    );
    tests.add("authorize::paths_methods_and_headers_decide", conditions);
    tests.add("authorize::without_a_policy_everything_is_refused", nothing);
    tests.add("authorize::a_policy_that_is_deleted_lets_nobody_in", deleted);
    tests.add("authorize::a_tcp_route_lets_its_clients_in_and_nobody_else", tcp);
    tests.add("authorize::plaintext_from_outside_the_mesh_is_closed", outside);
    tests.add(
        "authorize::a_connection_ends_when_it_is_no_longer_allowed",
        revoked,
    );
}

const WEB: &str = "{name: http-web, port: 8080}";

/// A client, another client, and a server that speaks HTTP.
async fn stage(world: Arc<World>, namespace: &str, policy: &[String]) -> anyhow::Result<Scene> {
    let parts = [
        member("client"),
        member("other"),
        member("server"),
        service("server", WEB),
    ];
    let scene = Scene::open(world, namespace, &parts).await?;
    if !policy.is_empty() {
        scene.apply("policy", policy)?;
    }
    scene.serve(server::http(scene.listen("server", 8080).await?, "server"));
    Ok(scene)
}

/// Waits until a path is answered so.
async fn answered(scene: &Scene, pod: &str, path: &str, status: u16) -> anyhow::Result<client::Reply> {
    let to = scene.service("server", 8080)?;
    let answered = || async { scene.get(pod, to, path).await?.expect(status) };
    scene
        .eventually(&format!("{path} is answered with {status}"), answered)
        .await
}

async fn identities(world: Arc<World>) -> Outcome {
    let policy = [
        routes(
            "web",
            "{name: shared, pathRegex: '/shared', methods: ['*']}, {name: own, pathRegex: '/own', methods: ['*']}",
        ),
        target("server", &["client"], "HTTPRouteGroup", "web", "own"),
        target("server", &["client", "other"], "HTTPRouteGroup", "web", "shared"),
    ];
    let scene = stage(world, "authorize-identities", &policy).await?;
    answered(&scene, "client", "/own", 200).await?;
    answered(&scene, "client", "/shared", 200).await?;
    answered(&scene, "other", "/shared", 200).await?;
    let reply = answered(&scene, "other", "/own", 403).await?;
    ensure!(
        reply.reason() == "rbac_request",
        "the reason is {:?}",
        reply.reason()
    );
    ensure!(
        reply.header(server::IDENTITY).is_empty(),
        "the application was asked"
    );
    let reply = answered(&scene, "client", "/none", 404).await?;
    ensure!(reply.reason() == "no_route", "the reason is {:?}", reply.reason());
    Ok(())
}

async fn conditions(world: Arc<World>) -> Outcome {
    let policy = [
        routes(
            "web",
            "{name: any, pathRegex: '/books/[0-9]+', methods: [GET, PUT], headers: [{x-card: 'gold-.*'}, {x-age: '[0-9]+'}]}",
        ),
        target("server", &["client"], "HTTPRouteGroup", "web", "any"),
    ];
    let scene = stage(world, "authorize-conditions", &policy).await?;
    let to = scene.service("server", 8080)?;
    let send =
        |method: &'static str, path: &'static str, headers: &'static [(&'static str, &'static str)]| {
            let scene = &scene;
            async move {
                let request = Request::builder()
                    .method(method)
                    .uri(path)
                    .header("host", "server");
                let request = headers
                    .iter()
                    .fold(request, |request, (name, value)| request.header(*name, *value));
                let reply = client::request(scene.dial("client", to).await?, request).await?;
                anyhow::Ok(reply.status.as_u16())
            }
        };
    const GOOD: &[(&str, &str)] = &[("x-card", "gold-1"), ("x-age", "30")];
    let allowed = || async {
        let status = send("GET", "/books/1", GOOD).await?;
        ensure!(status == 200, "the answer is {status}");
        Ok(())
    };
    scene.eventually("the policy is in force", allowed).await?;
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16);
    let cases: [Case<'_>; 9] = [
        ("PUT", "/books/23", GOOD, 200),
        ("GET", "/books/1?page=2", GOOD, 200),
        ("DELETE", "/books/1", GOOD, 404),
        ("GET", "/books/one", GOOD, 404),
        ("GET", "/my/books/1", GOOD, 404),
        ("GET", "/books/1/pages", GOOD, 404),
        ("GET", "/books/1", &[("x-card", "gold-1")], 404),
        (
            "GET",
            "/books/1",
            &[("x-card", "old gold-1"), ("x-age", "30")],
            404,
        ),
        ("GET", "/books/1", &[], 404),
    ];
    for (method, path, headers, expected) in cases {
        let status = send(method, path, headers).await?;
        ensure!(
            status == expected,
            "{method} {path} with {headers:?} gets {status} instead of {expected}"
        );
    }
    Ok(())
}

async fn nothing(world: Arc<World>) -> Outcome {
    let scene = stage(world, "authorize-nothing", &[]).await?;
    let request = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n";
    let to = scene.service("server", 8080)?;
    let refused = || async { client::refused(scene.dial("client", to).await, request).await };
    scene.eventually("the client is refused", refused).await?;
    // And stays so: what a sidecar learns of the Service in the meantime changes nothing.
    for ip in scene.pod_ips("server")? {
        client::refused(scene.dial("client", (ip, 8080).into()).await, request).await?;
    }
    for _ in 0..5 {
        client::refused(scene.dial("client", to).await, request).await?;
    }
    Ok(())
}

async fn deleted(world: Arc<World>) -> Outcome {
    let scene = stage(world, "authorize-deleted", &[allow_http("server", &["client"])]).await?;
    answered(&scene, "client", "/", 200).await?;
    scene.remove("policy")?;
    let to = scene.service("server", 8080)?;
    let refused = || async {
        client::refused(
            scene.dial("client", to).await,
            b"GET / HTTP/1.1\r\nHost: server\r\n\r\n",
        )
        .await
    };
    scene.eventually("the client is refused", refused).await?;
    scene.apply("policy", &[allow_http("server", &["client"])])?;
    answered(&scene, "client", "/", 200).await?;
    Ok(())
}

/// A client, another client, and a server of TCP on two ports, of which the client may use one.
async fn tcp_stage(world: Arc<World>, namespace: &str) -> anyhow::Result<Scene> {
    let parts = [
        member("client"),
        member("other"),
        member("server"),
        service(
            "server",
            "{name: tcp-one, port: 7001}, {name: tcp-two, port: 7002}",
        ),
    ];
    let scene = Scene::open(world, namespace, &parts).await?;
    scene.apply("policy", &[allow_tcp("server", &["client"], "7001")])?;
    for port in [7001, 7002] {
        scene.serve(server::echo(scene.listen("server", port).await?));
    }
    Ok(scene)
}

async fn tcp(world: Arc<World>) -> Outcome {
    let scene = tcp_stage(world, "authorize-tcp").await?;
    let (one, two) = (scene.service("server", 7001)?, scene.service("server", 7002)?);
    let allowed = || async { client::echo(&mut scene.dial("client", one).await?, b"hello").await };
    scene.eventually("the client is let in", allowed).await?;
    client::refused(scene.dial("other", one).await, b"hello").await?;
    client::refused(scene.dial("client", two).await, b"hello").await?;
    // The server's own word counts, not only the client's sidecar: the same client again.
    client::echo(&mut scene.dial("client", one).await?, b"still here").await
}

async fn outside(world: Arc<World>) -> Outcome {
    let scene = stage(world, "authorize-outside", &[allow_http("server", &["client"])]).await?;
    scene.apply("stranger", &[outsider("stranger")])?;
    scene.ready().await?;
    answered(&scene, "client", "/", 200).await?;
    let request = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n";
    for ip in scene.pod_ips("server")? {
        client::refused(scene.dial("stranger", (ip, 8080).into()).await, request).await?;
    }
    client::refused(
        scene.dial("stranger", scene.service("server", 8080)?).await,
        request,
    )
    .await
}

async fn revoked(world: Arc<World>) -> Outcome {
    let scene = tcp_stage(world, "authorize-revoked").await?;
    scene.apply("policy", &[allow_tcp("server", &["client", "other"], "7001")])?;
    let to = scene.service("server", 7001)?;
    let connected = |pod: &'static str| {
        let scene = &scene;
        async move {
            let mut stream = scene.dial(pod, to).await?;
            client::echo(&mut stream, b"hello").await?;
            Ok(stream)
        }
    };
    let mut stays = scene
        .eventually("the client is let in", || connected("client"))
        .await?;
    let mut ends = scene
        .eventually("the other is let in", || connected("other"))
        .await?;
    scene.apply("policy", &[allow_tcp("server", &["client"], "7001")])?;
    let rest = client::read_to_end(&mut ends).await?;
    ensure!(rest.is_empty(), "{rest:?} came");
    client::echo(&mut stays, b"still here").await
}
