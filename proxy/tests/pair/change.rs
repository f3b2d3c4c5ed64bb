//! Changes of what the control plane said.

use std::sync::Arc;

use weir_proxy::{
    model::{
        Cluster, Destination, FilterChain, Http, Listener, Route, RouteAction, RouteSource, RouteTable,
        Terminal,
    },
    xds::{State, Store},
};

use super::soon;

/// Changes every chain of a listener.
pub async fn chains(store: &Store, listener: &str, change: impl Fn(&mut FilterChain)) {
    let mut changed = Listener::clone(&soon(store.watch::<Listener>(listener).answered()).await.unwrap());
    for chain in &mut changed.chains {
        change(Arc::make_mut(chain));
    }
    store.publish(listener, State::Ready(Arc::new(changed)));
}

/// Changes where the routes of a listener lead.
pub async fn destinations(store: &Store, listener: &str, change: impl Fn(&mut Destination)) {
    chains(store, listener, |chain| {
        let Terminal::Http(http) = &mut chain.terminal else {
            panic!("the listener serves HTTP");
        };
        let RouteSource::Inline(table) = &http.routes else {
            panic!("its routes are given in place");
        };
        let mut table = RouteTable::clone(table);
        for route in table.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
            let mut changed = Route::clone(route);
            if let RouteAction::Forward(destination) = &mut changed.action {
                change(destination);
            }
            *route = Arc::new(changed);
        }
        *http = Arc::new(Http {
            routes: RouteSource::Inline(Arc::new(table)),
            ..Http::clone(http)
        });
    })
    .await;
}

/// Changes a cluster.
pub async fn cluster(store: &Store, name: &str, change: impl Fn(&mut Cluster)) {
    let mut changed = Cluster::clone(&soon(store.watch::<Cluster>(name).answered()).await.unwrap());
    change(&mut changed);
    store.publish(name, State::Ready(Arc::new(changed)));
}
