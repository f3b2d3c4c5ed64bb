//! Whose tokens get a certificate. The API server judges them; tokens of a cluster that are forged here are signed
//! with its own key.

use std::{sync::Arc, time::SystemTime};

use anyhow::{Context, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{Api, ResourceExt};
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};
use tonic::Code;
use weir_xds::ResourceType;

use crate::{
    Outcome, Tests,
    client::{Session, sign},
    pods::AUDIENCE,
    space::Space,
    world::{World, eventually},
};

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.beside(
        "certificates::a_pods_own_token_gets_its_identity_from_every_replica",
        own,
    );
    tests.beside("certificates::every_other_token_gets_nothing", others);
    tests.beside("certificates::a_token_ends_with_its_pod", ended);
}

/// The refusal is told to the client and counted.
async fn refused(space: &Space, token: &str, names: &[&str], reason: &str, code: Code) -> anyhow::Result<()> {
    let controller = space.world.controller(0);
    let label = format!("reason=\"{reason}\"");
    let labels = [label.as_str()];
    let counted = || controller.metric("weir_csr_refused_total", &labels);
    let before = counted().await?;
    let answer = sign(&space.world, controller, token, names).await?;
    let status = answer.err().with_context(|| format!("{reason}: it was signed"))?;
    ensure!(status.code() == code, "{reason}: {status:?}");
    ensure!(counted().await? > before, "{reason} is not counted");
    Ok(())
}

async fn own(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "own-token", &["web"]).await?;
    let pod = space.run_pod("web", "web", "10.1.1.1").await?;
    let uid = pod.uid().context("no UID")?;
    let token = space.token("web", Some(&pod), AUDIENCE).await?;
    for signer in [0, 1] {
        let signed = sign(&world, world.controller(signer), &token, &[]).await?;
        let signed = signed.with_context(|| format!("controller {signer} refuses"))?;
        // What one replica signed is believed by the other: they have one root.
        for server in [0, 1] {
            let controller = world.controller(server);
            let mut session = Session::open(&world, controller, &signed, &uid, &[]).await?;
            session
                .until("the inbound listener", |known| known.has("inbound"))
                .await?;
        }
    }
    Ok(())
}

async fn others(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "other-tokens", &["web", "admin"]).await?;
    let pod = space.run_pod("web", "web", "10.1.2.1").await?;
    let admin = space.run_pod("admin", "admin", "10.1.2.2").await?;
    let good = space.token("web", Some(&pod), AUDIENCE).await?;
    let signed = sign(&world, world.controller(0), &good, &[]).await?;
    let signed = signed.context("a good token is refused")?;

    let other = "spiffe://cluster.local/ns/other-tokens/sa/admin";
    refused(&space, &good, &[other], "csr_identity", Code::PermissionDenied).await?;
    let elsewhere = space.token("web", Some(&pod), "vault").await?;
    refused(&space, &elsewhere, &[], "wrong_audience", Code::Unauthenticated).await?;
    let of_api = space
        .token("web", Some(&pod), "https://kubernetes.default.svc.cluster.local")
        .await?;
    refused(&space, &of_api, &[], "wrong_audience", Code::Unauthenticated).await?;
    let unbound = space.token("web", None, AUDIENCE).await?;
    refused(&space, &unbound, &[], "bad_token", Code::Unauthenticated).await?;
    refused(&space, "garbage", &[], "bad_token", Code::Unauthenticated).await?;
    let huge = format!("{}.b.c", "a".repeat(20_000));
    let signed_too = sign(&world, world.controller(0), &huge, &[]).await?;
    ensure!(signed_too.is_err(), "a token of 20 kB is taken");

    let key = world.api_server().await.token_key()?;
    let now = seconds()?;
    let accounts = Api::<ServiceAccount>::namespaced(world.client(), &space.name);
    let (web, admins) = (accounts.get("web").await?, accounts.get("admin").await?);
    let expired = forge(&key, &pod, &web, (now - 7200, now - 3600))?;
    refused(&space, &expired, &[], "expired", Code::Unauthenticated).await?;
    let whole = forge(&key, &pod, &web, (now - 10, now + 3600))?;
    let taken = sign(&world, world.controller(0), &whole, &[]).await?;
    taken.context("what differs in nothing but its time is refused: nothing was shown above")?;
    let strangers = forge(&KeyPair::generate()?, &pod, &web, (now - 10, now + 3600))?;
    refused(&space, &strangers, &[], "bad_token", Code::Unauthenticated).await?;
    // A token as no API server makes it: of a pod that runs as somebody else.
    let crossed = forge(&key, &pod, &admins, (now - 10, now + 3600))?;
    refused(
        &space,
        &crossed,
        &[],
        "service_account_mismatch",
        Code::PermissionDenied,
    )
    .await?;

    // The certificate is one pod's: another's configuration is not for it.
    let uid = admin.uid().context("no UID")?;
    let controller = world.controller(0);
    let session = Session::open(
        &world,
        controller,
        &signed,
        &uid,
        &[(ResourceType::Listener, "inbound")],
    )
    .await;
    let got = match session {
        Ok(mut session) => session.until("", |known| known.has("inbound")).await.is_ok(),
        Err(_) => false,
    };
    ensure!(!got, "a pod got another's configuration");
    Ok(())
}

async fn ended(world: Arc<World>) -> Outcome {
    let space = Space::open(&world, "ended-token", &["web"]).await?;
    let pod = space.run_pod("web", "web", "10.1.3.1").await?;
    let token = space.token("web", Some(&pod), AUDIENCE).await?;
    let signed = sign(&world, world.controller(0), &token, &[]).await?;
    signed.context("a good token is refused")?;
    space.delete_pod("web").await?;
    // The API server itself remembers for some seconds whose a token is; the catalog knows that the pod is gone.
    eventually("the token to be refused", || async {
        let answer = sign(&world, world.controller(0), &token, &[]).await?;
        ensure!(answer.is_err(), "it was signed");
        Ok(())
    })
    .await
}

fn seconds() -> anyhow::Result<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(since.as_secs().try_into()?)
}

/// A token as the API server signs it.
fn forge(
    key: &KeyPair,
    pod: &Pod,
    account: &ServiceAccount,
    (begins, ends): (i64, i64),
) -> anyhow::Result<String> {
    let namespace = pod.namespace().unwrap_or_default();
    let claims = json!({
        "aud": [AUDIENCE],
        "iss": "https://kubernetes.default.svc.cluster.local",
        "iat": begins, "nbf": begins, "exp": ends,
        "jti": "6f1b5a9e-0000-4000-8000-000000000000",
        "sub": format!("system:serviceaccount:{namespace}:{}", account.name_any()),
        "kubernetes.io": {
            "namespace": namespace,
            "pod": {"name": pod.name_any(), "uid": pod.uid()},
            "serviceaccount": {"name": account.name_any(), "uid": account.uid()},
        },
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!(
        "{}.{}",
        part(&json!({"alg": "ES256", "typ": "JWT"})),
        part(&claims)
    );
    let signature = fixed(&key.sign(signed.as_bytes())?)?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// An ECDSA signature of P-256 as JWTs have it, from its DER: two integers of 32 bytes.
fn fixed(der: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut rest = der.get(2..).context("a short signature")?;
    let mut fixed = Vec::new();
    for _ in 0..2 {
        let length = usize::from(*rest.get(1).context("a short signature")?);
        let integer = rest.get(2..2 + length).context("a short signature")?;
        let digits = &integer[integer.len().saturating_sub(32)..];
        fixed.extend(std::iter::repeat_n(0, 32 - digits.len()));
        fixed.extend(digits);
        rest = &rest[2 + length..];
    }
    Ok(fixed)
}
