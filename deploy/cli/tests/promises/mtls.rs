//! What passes between pods, and who is believed.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, ensure};
use rustls::{
    ServerConfig,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{
    Outcome, Tests, client,
    credentials::{self, Authority, Credentials},
    exposition,
    manifest::{allow_http, member, pod, service},
    scene::{EXCHANGE, Scene},
    server,
    world::{World, within},
};

const PORT: u16 = 8080;
const WEB: &str = "{name: http-web, port: 8080}";
const ADMIN: u16 = 15000;
const REQUEST: &[u8] =
    b"GET /secret-path HTTP/1.1\r\nHost: server\r\nConnection: close\r\nX-Marker: secret-header\r\n\r\n";
/// More than is sent here.
const CAPTURED: usize = 16 << 20;
/// RFC 8446 §4.2.8: in a ServerHello the key_share extension (51), 1124 bytes long, names the group 0x11ec,
/// X25519MLKEM768, and brings 1120 bytes of it.
const HYBRID_SHARE: &[u8] = &[0x00, 0x33, 0x04, 0x64, 0x11, 0xec, 0x04, 0x60];
/// RFC 8446 §4.2.1: in a ServerHello the supported_versions extension (43) names 0x0304, TLS 1.3.
const TLS_1_3: &[u8] = &[0x00, 0x2b, 0x00, 0x02, 0x03, 0x04];

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "mtls::between_pods_is_only_tls_1_3_with_a_post_quantum_key_exchange",
        post_quantum,
    );
    tests.add(
        "mtls::a_client_without_a_certificate_of_the_mesh_is_refused",
        strangers,
    );
    tests.add("mtls::an_endpoint_with_another_identity_is_refused", impostor);
    tests.add("mtls::an_identity_is_exactly_the_service_account", exact_identity);
    tests.add("mtls::the_private_key_is_nowhere_to_be_seen", private_key);
}

async fn stage(world: &Arc<World>, namespace: &str) -> anyhow::Result<Scene> {
    let parts = [
        member("client"),
        member("server"),
        service("server", WEB),
        allow_http("server", &["client"]),
    ];
    let scene = Scene::open(Arc::clone(world), namespace, &parts).await?;
    scene.serve(server::http(scene.listen("server", PORT).await?, "server"));
    Ok(scene)
}

async fn reached(scene: &Scene) -> anyhow::Result<()> {
    let to = scene.service("server", PORT)?;
    let reached = || async { scene.get("client", to, "/").await?.expect(200).map(drop) };
    scene.eventually("the server is reached", reached).await
}

fn address(scene: &Scene, pod: &str) -> anyhow::Result<SocketAddr> {
    let ips = scene.pod_ips(pod)?;
    Ok(SocketAddr::new(*ips.first().context("no address")?, PORT))
}

async fn post_quantum(world: Arc<World>) -> Outcome {
    let capture = world.mesh().testbed().capture(CAPTURED)?;
    let scene = stage(&world, "mtls-hybrid").await?;
    reached(&scene).await?;
    let (to, server) = (scene.service("server", PORT)?, scene.pod_ips("server")?);
    let mut stream = scene.dial("client", to).await?;
    client::write(&mut stream, REQUEST).await?;
    let answer = client::read_to_end(&mut stream).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "the answer is {answer:?}");

    let from_server = |flows: Vec<weir_testbed::Flow>| {
        let from_server = |(from, _): &weir_testbed::Flow| server.contains(&from.ip()) && from.port() == PORT;
        flows.iter().filter(|flow| from_server(flow)).count()
    };
    // What is captured is looked at a little later than it is sent.
    let agreed = || async {
        let all = from_server(capture.flows().into_iter().map(|(flow, _)| flow).collect());
        ensure!(all > 0, "nothing was captured of {:?}", capture.flows());
        for (what, pattern) in [("TLS 1.3", TLS_1_3), ("X25519MLKEM768", HYBRID_SHARE)] {
            let with = from_server(capture.flows_with(pattern));
            ensure!(with == all, "{what} was chosen in {with} of {all} connections");
        }
        Ok(())
    };
    scene
        .eventually("TLS 1.3 and X25519MLKEM768 in every connection", agreed)
        .await?;
    for secret in [&b"secret-path"[..], b"secret-header", b"saw-version"] {
        ensure!(
            !capture.contains(secret),
            "{:?} was readable",
            String::from_utf8_lossy(secret)
        );
    }
    Ok(())
}

/// Sends a request over TLS of its own; nothing at all may come back.
async fn refused(to: SocketAddr, config: rustls::ClientConfig) -> anyhow::Result<()> {
    let Ok(mut stream) = credentials::shake(to, config).await else {
        return Ok(());
    };
    let _reset = stream.write_all(REQUEST).await;
    let mut answer = Vec::new();
    let _reset = within(EXCHANGE, "the end", stream.read_to_end(&mut answer)).await?;
    ensure!(
        answer.is_empty(),
        "{:?} came back",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// The status of the answer to a request over TLS of its own.
async fn status(to: SocketAddr, shown: &Credentials) -> anyhow::Result<String> {
    let mut stream = credentials::shake(to, shown.client()?).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    within(EXCHANGE, "an answer", stream.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
}

async fn strangers(world: Arc<World>) -> Outcome {
    let scene = stage(&world, "mtls-strangers").await?;
    reached(&scene).await?;
    let to = address(&scene, "server")?;
    let (mesh, stranger) = (Authority::of_mesh(&world)?, Authority::stranger()?);
    let client = "spiffe://cluster.local/ns/mtls-strangers/sa/client";

    // Who has the mesh's root can be anyone: that these are believed shows that the others are refused for what
    // is wrong with them.
    let good = mesh.sign(client)?;
    ensure!(
        status(to, &good).await? == "200",
        "a certificate of the mesh is not believed"
    );
    for other in [
        "spiffe://cluster.local/ns/mtls-strangers/sa/other",
        "spiffe://cluster.local/ns/other/sa/client",
        "spiffe://example.org/ns/mtls-strangers/sa/client",
        "spiffe://cluster.local/ns/mtls-strangers/sa/client2",
        "spiffe://cluster.local/ns/mtls-strangers/sa/client/more",
    ] {
        let answer = status(to, &mesh.sign(other)?).await;
        ensure!(
            !matches!(answer.as_deref(), Ok("200")),
            "{other} was taken for {client}"
        );
    }
    let failures = |reason: &'static str| {
        let (world, pod) = (&world, scene.pod("server"));
        async move {
            let scrape = exposition::sidecar(world, &pod).await?;
            let labels = [
                ("direction", "inbound"),
                ("result", "failure"),
                ("reason", reason),
            ];
            anyhow::Ok(scrape.sum("weir_tls_handshakes_total", &labels))
        }
    };
    for (config, reason) in [
        (credentials::nobody(&[&TLS13])?, "no_certificate"),
        (stranger.sign(client)?.client()?, "unknown_ca"),
        (mesh.sign_expired(client)?.client()?, "expired"),
        (credentials::nobody(&[&TLS12])?, "protocol"),
    ] {
        let before = failures(reason).await?;
        refused(to, config).await.context(reason)?;
        let counted = || async {
            let now = failures(reason).await?;
            ensure!(now > before, "{reason} was counted {now} times");
            Ok(())
        };
        scene.eventually(&format!("{reason} is counted"), counted).await?;
    }
    // TLS that is not the mesh's, even with a certificate of the mesh.
    refused(to, credentials::speaking(good.client()?, b"http/1.1")).await?;
    Ok(())
}

/// A server that shows what it is told to, in a pod that passes for one with a sidecar.
async fn impostor(world: Arc<World>) -> Outcome {
    let containers = "{name: app, image: none, command: [sleep, infinity]}, \
                      {name: weir-proxy, image: none, command: [sleep, infinity]}";
    let annotation = "openservicemesh.io/sidecar-injection: disabled";
    let parts = [
        member("client"),
        pod("server", "server", annotation, containers, "[]"),
        service("server", WEB),
        allow_http("server", &["client"]),
    ];
    let scene = Scene::open(Arc::clone(&world), "mtls-impostor", &parts).await?;
    let (mesh, stranger) = (Authority::of_mesh(&world)?, Authority::stranger()?);
    let server = "spiffe://cluster.local/ns/mtls-impostor/sa/server";
    let good = mesh.sign(server)?.server()?;
    let shown = Arc::new(Mutex::new(Arc::clone(&good)));
    scene.serve(answer_once(
        scene.listen("server", PORT).await?,
        Arc::clone(&shown),
    ));
    reached(&scene).await?;

    let to = scene.service("server", PORT)?;
    let failures = |reason: &'static str| {
        let (world, pod) = (&world, scene.pod("client"));
        async move {
            let scrape = exposition::sidecar(world, &pod).await?;
            let labels = [
                ("direction", "outbound"),
                ("result", "failure"),
                ("reason", reason),
            ];
            anyhow::Ok(scrape.sum("weir_tls_handshakes_total", &labels))
        }
    };
    let other = "spiffe://cluster.local/ns/mtls-impostor/sa/client";
    for (credentials, reason) in [
        (mesh.sign(other)?, "wrong_identity"),
        (stranger.sign(server)?, "unknown_ca"),
        (mesh.sign_expired(server)?, "expired"),
    ] {
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = credentials.server()?;
        let before = failures(reason).await?;
        let refused = || async {
            let reply = scene.get("client", to, "/").await?;
            ensure!(reply.status == 503, "{reason}: the answer is {}", reply.status);
            ensure!(
                failures(reason).await? > before,
                "{reason} is not counted; the answer's reason is {}",
                reply.reason()
            );
            Ok(())
        };
        scene
            .eventually(&format!("the server is refused ({reason})"), refused)
            .await?;
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&good);
        reached(&scene).await?;
    }
    Ok(())
}

/// Answers one request on each connection, with the certificate of the moment.
async fn answer_once(listener: TcpListener, shown: Arc<Mutex<Arc<ServerConfig>>>) {
    server::each(listener, move |stream| {
        let config = Arc::clone(&shown.lock().unwrap_or_else(PoisonError::into_inner));
        async move {
            let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else {
                return;
            };
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                let _client_left = stream.write_all(answer).await;
                let _client_left = stream.shutdown().await;
            }
        }
    })
    .await;
}

async fn exact_identity(world: Arc<World>) -> Outcome {
    let scene = stage(&world, "mtls-identity").await?;
    reached(&scene).await?;
    let uri = "spiffe://cluster.local/ns/mtls-identity/sa/server";
    let client = Authority::of_mesh(&world)?.sign("spiffe://cluster.local/ns/mtls-identity/sa/client")?;
    let stream = credentials::shake(address(&scene, "server")?, client.client()?).await?;
    let connection = stream.get_ref().1;
    let leaf = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .context("no certificate")?;
    let (_, leaf) = X509Certificate::from_der(leaf)?;
    let names = leaf.subject_alternative_name()?.context("no names")?;
    let wanted = [
        GeneralName::URI(uri),
        GeneralName::DNSName("server.mtls-identity.cluster.local"),
    ];
    ensure!(
        names.value.general_names == wanted,
        "the names are {:?}",
        names.value.general_names
    );
    ensure!(!leaf.is_ca(), "the sidecar may sign");
    let uid = world.mesh().testbed().find(&scene.pod("server"))?.uid;
    let subject = leaf.subject().to_string();
    ensure!(
        subject.contains(&uid),
        "the subject {subject} does not name pod {uid}"
    );

    let page = world
        .mesh()
        .get_local(&scene.pod("server"), ADMIN, "/certs")
        .await?;
    let page: serde_json::Value = serde_json::from_str(&page.body)?;
    let own = page["certificates"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|chain| chain["cert_chain"].is_array())
        .context("no chain on /certs")?;
    let shown = &own["cert_chain"][0]["subject_alt_names"];
    ensure!(shown[0]["uri"] == uri, "/certs shows {shown}");
    Ok(())
}

async fn private_key(world: Arc<World>) -> Outcome {
    let capture = world.mesh().testbed().capture(CAPTURED)?;
    let scene = stage(&world, "mtls-key").await?;
    reached(&scene).await?;
    // That a page of each shows the certificate proves that what is looked through is what it should be.
    let certificate = "-----BEGIN CERTIFICATE";
    let key = "PRIVATE KEY";
    for pod in ["client", "server"] {
        let status = world.mesh().testbed().find(&scene.pod(pod))?;
        for path in ["/config_dump", "/certs", "/clusters"] {
            let page = world.mesh().get_local(&scene.pod(pod), ADMIN, path).await?;
            ensure!(page.status == 200, "{path} is answered with {}", page.status);
            ensure!(!page.body.contains(key), "{path} of {pod} holds a key");
        }
        let directory = world.run_dir().join("pods").join(&status.uid);
        let files = read_all(&directory)?;
        ensure!(
            files.iter().any(|text| text.contains(certificate)),
            "the bootstrap is not among the {} files of {pod}",
            files.len()
        );
        ensure!(
            files.iter().all(|text| !text.contains(key)),
            "a file of {pod} holds a key"
        );
        let written = open_for_writing(&status)?;
        ensure!(written.is_empty(), "the sidecar of {pod} writes to {written:?}");
    }
    ensure!(capture.bytes() > 0, "nothing was captured");
    ensure!(
        !capture.contains(key.as_bytes()) && !capture.contains(b"CERTIFICATE REQUEST"),
        "a key or a request for its certificate was readable on the wire"
    );
    Ok(())
}

/// The content of every file of a pod, and of its volumes.
fn read_all(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            texts.extend(read_all(&entry.path())?);
        } else if kind.is_file() {
            texts.push(String::from_utf8_lossy(&fs::read(entry.path())?).into_owned());
        }
    }
    Ok(texts)
}

/// Files that a pod's sidecar has open for writing, its log left out.
fn open_for_writing(pod: &weir_testbed::PodStatus) -> anyhow::Result<Vec<String>> {
    let sidecar = pod.containers.get("weir-proxy").context("no sidecar")?;
    let process = sidecar.pid.context("the sidecar does not run")?;
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let number = entry?.file_name().to_string_lossy().into_owned();
        let Ok(target) = fs::read_link(format!("/proc/{process}/fd/{number}")) else {
            continue;
        };
        let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}"))?;
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap_or_default();
        let writable = u32::from_str_radix(flags.trim(), 8)? & 0o3 != 0;
        let standard = matches!(number.as_str(), "1" | "2");
        if writable && !standard && target.is_absolute() {
            files.push(target.display().to_string());
        }
    }
    Ok(files)
}
