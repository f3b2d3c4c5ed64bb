//! The proxy under test, with a bootstrap as other control planes write it.

use std::{fmt::Debug, net::SocketAddr, time::Duration};

use clap::Parser as _;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use weir_proxy::{
    app::App,
    config::Args,
    xds::{Store, Summary},
};

use crate::control_plane::PATIENCE;

/// The variant of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Delta,
    StateOfTheWorld,
}

/// What of listeners and clusters is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    Everything,
    ByName,
}

pub(crate) struct Proxy {
    pub(crate) store: Store,
    /// The port of the admin pages.
    pub(crate) admin: u16,
    app: App,
}

/// What is known of a resource: `None` when nobody wants it or nothing was heard, or its message as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Nothing,
    Absent,
    Ready(String),
}

impl Proxy {
    pub(crate) fn start(control_plane: SocketAddr, variant: Variant, asking: Asking) -> Self {
        let mut bootstrap = bootstrap(control_plane, variant);
        let [admin] = weir_testbed::free_ports().unwrap();
        let address = json!({ "address": "127.0.0.1", "port_value": admin });
        bootstrap["admin"] = json!({ "address": { "socket_address": address } });
        if asking == Asking::Everything {
            for source in ["lds_config", "cds_config"] {
                bootstrap["dynamic_resources"][source] = json!({ "ads": {}, "resource_api_version": "V3" });
            }
        }
        let bootstrap = bootstrap.to_string();
        let args = ["weir-proxy", "--config-yaml", &bootstrap];
        let pages = ["--stats-address", "off", "--health-address", "off"];
        let config = Args::try_parse_from(args.into_iter().chain(pages))
            .unwrap()
            .load()
            .unwrap();
        let mut app = App::new(config);
        app.serve_pages().unwrap();
        app.start().unwrap();
        Self {
            store: app.store(),
            admin,
            app,
        }
    }

    /// What is known of a resource; `kind` as in `cds`.
    pub(crate) fn known(&self, kind: &str, name: &str) -> Known {
        let dump = self.store.dump();
        let found = dump
            .iter()
            .find(|one| one.kind.short() == kind && &*one.name == name);
        match found.map(|found| (found.state, found)) {
            None | Some((Summary::Pending, _)) => Known::Nothing,
            Some((Summary::Absent, _)) => Known::Absent,
            Some((Summary::Ready, found)) => Known::Ready(found.to_json()["resource"].to_string()),
        }
    }

    /// Why the last stream ended.
    pub(crate) fn stream_error(&self) -> Option<String> {
        self.app.stream().last_error()
    }

    /// Why the last version of a resource was refused.
    pub(crate) fn error(&self, kind: &str, name: &str) -> Option<String> {
        let mut dump = self.store.dump().into_iter();
        dump.find(|one| one.kind.short() == kind && &*one.name == name)?
            .error
    }

    /// Waits until a resource is there and its message holds this text.
    pub(crate) async fn has(&self, kind: &str, name: &str, text: &str) {
        let what = format!("{kind} {name:?} with {text:?}");
        until(&what, || match self.known(kind, name) {
            Known::Ready(message) if message.contains(text) => Ok(()),
            known => Err(known),
        })
        .await;
    }

    /// Waits until a resource is known not to be there.
    pub(crate) async fn lacks(&self, kind: &str, name: &str) {
        until(&format!("no {kind} {name:?}"), || match self.known(kind, name) {
            Known::Absent => Ok(()),
            known => Err(known),
        })
        .await;
    }
}

/// Waits for a condition; what is there instead is told when it does not come true.
pub(crate) async fn until<T, E: Debug>(what: &str, mut check: impl FnMut() -> Result<T, E>) -> T {
    let waiting = async {
        loop {
            if let Ok(found) = check() {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    match timeout(PATIENCE, waiting).await {
        Ok(found) => found,
        Err(_) => panic!("{what}: not in time; there is {:?}", check().err()),
    }
}

fn bootstrap(control_plane: SocketAddr, variant: Variant) -> Value {
    let (host, port) = (control_plane.ip().to_string(), control_plane.port());
    let address = json!({ "socket_address": { "address": host, "port_value": port } });
    json!({
        "node": { "id": "proxy", "cluster": "test" },
        "dynamic_resources": {
            "ads_config": {
                "api_type": match variant {
                    Variant::Delta => "DELTA_GRPC",
                    Variant::StateOfTheWorld => "GRPC",
                },
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds" } }],
            },
        },
        "static_resources": { "clusters": [{
            "name": "xds",
            "type": "STATIC",
            "connect_timeout": "5s",
            "upstream_connection_options": { "tcp_keepalive": {} },
            "load_assignment": {
                "cluster_name": "xds",
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
            },
        }] },
    })
}
