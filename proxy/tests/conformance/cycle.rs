//! Resources of every type come, change, go and come back.

use serde_json::Value;
use weir_proxy::{
    model::{Cluster, Endpoints, Listener, RouteTable, Secret},
    xds::Store,
};

use crate::{
    control_plane::{ControlPlane, Manner},
    over_both,
    proxy::{Asking, Known, Proxy, Variant},
    resources::{self, KINDS},
};

const ADDRESS: &str = "10.0.0.1:80";

/// One of a kind, and the text that tells its version.
fn version(kind: &str, version: u16, pem: &str) -> (&'static str, Value, String) {
    let mark = format!("mark-{version}");
    match kind {
        "cds" => {
            let mut cluster = resources::cluster("c");
            cluster["connect_timeout"] = format!("{version}s").into();
            ("c", cluster, format!("\"{version}s\""))
        }
        "eds" => {
            let port = 1000 + version;
            ("c", resources::endpoints("c", port), port.to_string())
        }
        "sds" => ("s", resources::secret("s", pem, &mark), mark),
        "lds" => (ADDRESS, resources::unbound(ADDRESS, &mark), mark),
        _ => ("r", resources::routes("r", &mark), mark),
    }
}

/// Wants one resource of every type, as the data path does, for as long as what it returns lives.
fn want(store: &Store) -> impl Sized + use<> {
    (
        store.watch::<Cluster>("c"),
        store.watch::<Endpoints>("c"),
        store.watch::<Secret>("s"),
        store.watch::<Listener>(ADDRESS),
        store.watch::<RouteTable>("r"),
    )
}

async fn goes_around(variant: Variant, asking: Asking) {
    let Some(mut server) = ControlPlane::start(Manner::Snapshot).await else {
        return;
    };
    let proxy = Proxy::start(server.address, variant, asking);
    let _wanted = want(&proxy.store);
    let pem = resources::root();
    let all = |one: u16| KINDS.map(|kind| version(kind, one, &pem));
    for one in [1, 2] {
        let bodies = all(one).map(|(_, body, _)| body);
        server.set(&format!("v{one}"), &bodies).await;
        for (kind, (name, _, text)) in KINDS.into_iter().zip(all(one)) {
            proxy.has(kind, name, &text).await;
        }
    }
    server.set("v3", &[]).await;
    for (kind, (name, _, text)) in KINDS.into_iter().zip(all(2)) {
        // There is no word for removal in the state of the world but the full sets of listeners and clusters.
        if variant == Variant::Delta || matches!(kind, "lds" | "cds") {
            proxy.lacks(kind, name).await;
        } else {
            let known = proxy.known(kind, name);
            assert!(
                matches!(&known, Known::Ready(message) if message.contains(&text)),
                "{known:?}"
            );
        }
    }
    server.set("v4", &all(4).map(|(_, body, _)| body)).await;
    for (kind, (name, _, text)) in KINDS.into_iter().zip(all(4)) {
        proxy.has(kind, name, &text).await;
    }
    for kind in KINDS {
        let refused = server
            .requests(kind)
            .into_iter()
            .find(|request| !request["errorDetail"].is_null());
        assert_eq!(refused, None);
    }
}

async fn everything_at_once(variant: Variant) {
    goes_around(variant, Asking::Everything).await;
}

async fn one_by_one(variant: Variant) {
    goes_around(variant, Asking::ByName).await;
}

over_both!(everything_at_once, one_by_one);
