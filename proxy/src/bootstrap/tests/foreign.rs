//! Bootstraps as other control planes write them, and secrets in files.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::xds::Watched;

const CONSUL: &str = include_str!("../fixtures/consul.yaml");
const ISTIO: &str = include_str!("../fixtures/istio.yaml");
const OSM: &str = include_str!("../fixtures/osm.yaml");

/// A file that serves one secret, in place of the kubelet's or an agent's.
fn serve_secret(file: &Path, name: &str, body: &str) {
    let text = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: {name}\n  {body}\n"
    );
    std::fs::write(file, text).unwrap();
}

/// Puts a whole file in another's place, as those do who rotate secrets.
fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, file).unwrap();
}

struct Etc {
    directory: tempfile::TempDir,
    pem: String,
}

impl Etc {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let etc = Self {
            directory,
            pem: String::new(),
        };
        let (pem, key) = authority();
        std::fs::write(etc.at("sds_cert.pem"), &pem).unwrap();
        std::fs::write(etc.at("sds_key.pem"), key).unwrap();
        std::fs::write(etc.at("cacert.pem"), &pem).unwrap();
        let (certificate, key) = (etc.at("sds_cert.pem"), etc.at("sds_key.pem"));
        serve_secret(
            &etc.at("tls_certificate_sds_secret.yaml"),
            "tls_sds",
            &format!(
                "tls_certificate: {{certificate_chain: {{filename: {certificate:?}}}, private_key: {{filename: {key:?}}}}}"
            ),
        );
        serve_secret(
            &etc.at("validation_context_sds_secret.yaml"),
            "validation_context_sds",
            &format!(
                "validation_context: {{trusted_ca: {{filename: {:?}}}}}",
                etc.at("cacert.pem")
            ),
        );
        Self { pem, ..etc }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn load(&self) -> Bootstrap {
        let directory = self.directory.path().display().to_string();
        load(&OSM.replace("@DIR@", &directory)).unwrap()
    }
}

#[test]
fn consul_starts_us() {
    let bootstrap = load(CONSUL).unwrap();
    let ads = bootstrap.ads.unwrap();
    assert_eq!(
        (ads.protocol, ads.cluster.as_str()),
        (Protocol::Delta, "local_agent")
    );
    assert_eq!(ads.metadata, [("x-consul-token".to_owned(), "5f1c".to_owned())]);
    assert_eq!(ads.authority.as_deref(), Some("agent.consul"));
    for told in ["layered_runtime", "stats_config", "admin.access_log_path"] {
        assert!(
            bootstrap.ignored.iter().any(|path| path == told),
            "{:?}",
            bootstrap.ignored
        );
    }
    let shown = crate::xds::message_to_json(&bootstrap.source).to_string();
    assert!(
        shown.contains("local_agent") && !shown.contains("5f1c"),
        "{shown}"
    );
}

#[test]
fn istio_starts_us() {
    let bootstrap = load(ISTIO).unwrap();
    let ads = bootstrap.ads.unwrap();
    assert_eq!((ads.protocol, ads.keepalive), (Protocol::StateOfTheWorld, None));
    assert_eq!(bootstrap.listeners[0].value.address.unwrap().port(), 15090);
    let socket = ISTIO.replace(
        "socket_address: { address: istiod.istio-system.svc, port_value: 15010 }",
        "pipe: { path: ./etc/istio/proxy/XDS }",
    );
    assert!(load(&socket).unwrap_err().contains("pipe is not supported"));
}

#[test]
fn osm_starts_us() {
    let bootstrap = Etc::new().load();
    let ads = bootstrap.ads.unwrap();
    assert_eq!((ads.protocol, ads.keepalive), (Protocol::StateOfTheWorld, None));
    assert_eq!(ads.wildcard.len(), 2, "as Envoy would ask");
    let names: Vec<_> = bootstrap
        .secrets
        .iter()
        .map(|secret| secret.name.as_str())
        .collect();
    assert_eq!(names, ["tls_sds", "validation_context_sds"]);
    assert!(bootstrap.ignored.is_empty(), "{:?}", bootstrap.ignored);
}

#[test]
fn a_certificate_in_place_becomes_a_secret() {
    let (pem, key) = authority();
    let yaml = format!(
        "static_resources: {{clusters: [{{name: c, type: EDS, transport_socket: {{name: t, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: \
         {{tls_certificates: [{{certificate_chain: {{inline_string: {pem:?}}}, private_key: {{inline_string: {key:?}}}}}], \
         validation_context: {{trusted_ca: {{inline_string: {pem:?}}}}}}}}}}}}}]}}"
    );
    let bootstrap = load(&yaml).unwrap();
    let name = "cluster c tls_certificates[0]";
    assert_eq!(bootstrap.secrets[0].name, name);
    let tls = bootstrap.clusters[0].value.tls.clone().unwrap();
    assert_eq!(tls.certificate.as_deref(), Some(name));
}

async fn changes(watched: &mut Watched<Secret>, done: impl Fn(&Secret) -> bool) {
    let waiting = async {
        while !watched.current().ready().is_some_and(|secret| done(secret)) {
            watched.changed().await;
        }
    };
    timeout(Duration::from_secs(20), waiting)
        .await
        .expect("the store should follow the files");
}

#[tokio::test]
async fn secrets_follow_their_files_and_the_last_good_one_stays() {
    let etc = Etc::new();
    let (store, _interest) = Store::new();
    etc.load().publish(&store);
    let chain_is = |pem: &str| {
        let wanted = der(pem);
        move |secret: &Secret| matches!(secret, Secret::Certificate(found) if found.chain[0].as_ref() == wanted)
    };
    let mut own = store.watch::<Secret>("tls_sds");
    let mut roots = store.watch::<Secret>("validation_context_sds");
    changes(&mut own, chain_is(&etc.pem)).await;

    let (pem, key) = authority();
    replace(&etc.at("sds_cert.pem"), &pem);
    replace(&etc.at("cacert.pem"), &pem);
    let wanted = der(&pem);
    changes(
        &mut roots,
        |secret| matches!(secret, Secret::TrustBundle(found) if found.roots[0].as_ref() == wanted),
    )
    .await;
    // The roots were read after the certificate, whose key was still the old one.
    assert!(
        own.current()
            .ready()
            .is_some_and(|secret| chain_is(&etc.pem)(secret))
    );

    replace(&etc.at("sds_key.pem"), &key);
    changes(&mut own, chain_is(&pem)).await;
}

fn der(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .unwrap()
        .to_vec()
}
