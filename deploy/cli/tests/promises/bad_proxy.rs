//! Clients of the controller that ask for what is not theirs.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow, ensure};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint, Uri},
};
use weir_controller::certificates::{TokenIdentity, join_token};
use weir_xds::{
    ResourceType,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};

use crate::{
    Outcome, Tests,
    credentials::{self, Authority, Credentials},
    exposition,
    manifest::member,
    scene::{EXCHANGE, Scene},
    world::{World, within},
};

const CONTROLLER: &str = "weir-system/weir-controller";
const CONTROLLER_NAME: &str = "weir-controller.weir-system.svc.cluster.local";
const XDS_PORT: u16 = 15128;
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add(
        "bad_input::a_token_or_request_for_another_identity_is_refused_and_counted",
        signing,
    );
    tests.add(
        "bad_input::a_proxy_that_asks_for_another_pod_s_configuration_is_refused_and_counted",
        discovery,
    );
}

/// A pod of the scene as a token names it.
fn holder(world: &World, scene: &Scene, pod: &str) -> anyhow::Result<TokenIdentity> {
    let status = world.mesh().testbed().find(&scene.pod(pod))?;
    Ok(TokenIdentity {
        namespace: status.namespace,
        service_account: pod.to_owned(),
        pod: status.name,
        pod_uid: status.uid,
    })
}

fn token(
    key: &[u8],
    holder: &TokenIdentity,
    change: impl FnOnce(&mut join_token::Claims),
) -> anyhow::Result<String> {
    let mut claims = join_token::Claims::for_pod(holder, SystemTime::now(), HOUR);
    change(&mut claims);
    Ok(join_token::mint(key, &claims)?)
}

async fn channel(world: &World, shown: Option<&Credentials>) -> anyhow::Result<Channel> {
    let ip = *world
        .mesh()
        .testbed()
        .find(CONTROLLER)?
        .ips
        .first()
        .context("no address")?;
    let to = SocketAddr::new(ip, XDS_PORT);
    let connector = TlsConnector::from(Arc::new(credentials::to_controller(world, shown)?));
    let name = ServerName::try_from(CONTROLLER_NAME)?;
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let stream = TcpStream::connect(to).await?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://controller");
    let connected = endpoint.connect_with_connector(connect);
    Ok(within(EXCHANGE, "to connect to the controller", connected).await??)
}

/// Has a new key signed.
async fn sign(world: &World, token: &str, names: &[&str]) -> anyhow::Result<Result<Credentials, Status>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    for name in names {
        params.subject_alt_names.push(SanType::URI((*name).try_into()?));
    }
    let mut request = Request::new(IstioCertificateRequest {
        csr: params.serialize_request(&key)?.pem()?,
        ..IstioCertificateRequest::default()
    });
    let bearer = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    let mut client = IstioCertificateServiceClient::new(channel(world, None).await?);
    let answer = within(EXCHANGE, "an answer", client.create_certificate(request)).await?;
    match answer {
        Ok(signed) => Ok(Ok(Credentials::signed(&signed.into_inner().cert_chain, &key)?)),
        Err(status) => Ok(Err(status)),
    }
}

/// An error unless `attempt` is refused with this code, and counted.
async fn refused_and_counted<T, F>(
    world: &World,
    metric: &str,
    reason: &str,
    code: Code,
    attempt: F,
) -> Outcome
where
    F: Future<Output = anyhow::Result<Result<T, Status>>>,
{
    let labels: &[(&str, &str)] = &[("reason", reason)];
    let before = exposition::controller(world).await?.sum(metric, labels);
    let status = match attempt.await? {
        Ok(_) => return Err(anyhow!("{reason}: it was granted")),
        Err(status) => status,
    };
    ensure!(status.code() == code, "{reason}: the answer is {status:?}");
    let after = exposition::controller(world).await?.sum(metric, labels);
    ensure!(
        after > before,
        "{metric} of {reason} went from {before} to {after}"
    );
    Ok(())
}

async fn signing(world: Arc<World>) -> Outcome {
    let parts = [member("client"), member("server")];
    let scene = Scene::open(Arc::clone(&world), "bad-signing", &parts).await?;
    let key = join_token::load_or_create_key(&world.state_dir())?;
    let (client, server) = (
        holder(&world, &scene, "client")?,
        holder(&world, &scene, "server")?,
    );
    let own = "spiffe://cluster.local/ns/bad-signing/sa/client";
    let other = "spiffe://cluster.local/ns/bad-signing/sa/server";
    let good = token(&key, &client, |_| ())?;
    ensure!(sign(&world, &good, &[]).await?.is_ok(), "a good token is refused");
    ensure!(
        sign(&world, &good, &[own]).await?.is_ok(),
        "a request for the token's own identity is refused"
    );

    let other_account = TokenIdentity {
        service_account: "server".to_owned(),
        ..client.clone()
    };
    let nobody = TokenIdentity {
        pod_uid: "00000000-0000-4000-8000-000000000000".to_owned(),
        ..client.clone()
    };
    let expired = token(&key, &client, |claims| claims.exp = claims.iat - 1)?;
    let elsewhere = token(&key, &client, |claims| claims.aud = vec!["vault".to_owned()])?;
    let foreign = token(&[7; 32], &client, |_| ())?;
    let server_s = token(&key, &server, |_| ())?;
    for (token, names, reason, code) in [
        (expired, &[][..], "expired", Code::Unauthenticated),
        (elsewhere, &[], "wrong_audience", Code::Unauthenticated),
        (foreign, &[], "bad_token", Code::Unauthenticated),
        ("garbage".to_owned(), &[], "bad_token", Code::Unauthenticated),
        (
            token(&key, &other_account, |_| ())?,
            &[],
            "service_account_mismatch",
            Code::PermissionDenied,
        ),
        (
            token(&key, &nobody, |_| ())?,
            &[],
            "unknown_pod",
            Code::Unavailable,
        ),
        (good, &[other], "csr_identity", Code::PermissionDenied),
        (server_s, &[own, other], "csr_identity", Code::PermissionDenied),
    ] {
        let attempt = sign(&world, &token, names);
        refused_and_counted(&world, "weir_csr_refused_total", reason, code, attempt).await?;
    }
    Ok(())
}

/// Asks for the inbound listener as a node; the first response.
async fn ask(
    world: &World,
    shown: Option<&Credentials>,
    node: &str,
) -> anyhow::Result<Result<DeltaDiscoveryResponse, Status>> {
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            id: node.to_owned(),
            ..Node::default()
        }),
        type_url: ResourceType::Listener.url().to_owned(),
        resource_names_subscribe: vec!["inbound".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    sender.send(request).await?;
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut client = AggregatedDiscoveryServiceClient::new(channel(world, shown).await?);
    let first = async {
        let mut responses = client.delta_aggregated_resources(requests).await?.into_inner();
        let response = responses.message().await?;
        response.ok_or_else(|| Status::internal("the stream ended without a response"))
    };
    within(EXCHANGE, "a response", first).await
}

async fn discovery(world: Arc<World>) -> Outcome {
    let parts = [member("client"), member("server")];
    let scene = Scene::open(Arc::clone(&world), "bad-discovery", &parts).await?;
    let key = join_token::load_or_create_key(&world.state_dir())?;
    let (client, server) = (
        holder(&world, &scene, "client")?,
        holder(&world, &scene, "server")?,
    );
    let signed = sign(&world, &token(&key, &client, |_| ())?, &[]).await?;
    let own = signed.context("a good token is refused")?;

    let response = ask(&world, Some(&own), &client.pod_uid).await?;
    let response = response.context("a proxy does not get its own configuration")?;
    let names: Vec<_> = response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect();
    ensure!(names == ["inbound"], "the proxy got {names:?}");

    let metric = "weir_xds_refused_total";
    let attempt = ask(&world, Some(&own), &server.pod_uid);
    refused_and_counted(&world, metric, "node_mismatch", Code::PermissionDenied, attempt).await?;
    let attempt = ask(&world, None, &client.pod_uid);
    refused_and_counted(&world, metric, "no_certificate", Code::PermissionDenied, attempt).await?;

    let before = exposition::controller(&world).await?;
    let forged = Authority::stranger()?.sign("spiffe://cluster.local/ns/bad-discovery/sa/client")?;
    let answer = ask(&world, Some(&forged), &client.pod_uid).await;
    ensure!(!matches!(answer, Ok(Ok(_))), "a foreign certificate was believed");
    let counted = || async {
        let failed = "weir_xds_tls_handshakes_failed_total";
        let after = exposition::controller(&world).await?.sum(failed, &[]);
        ensure!(after > before.sum(failed, &[]), "{failed} is {after}");
        Ok(())
    };
    scene.eventually("the handshake is counted", counted).await
}
