//! Discovery: who may ask, and that a session hears of what it subscribed to and of nothing else.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::Code;
use weir_controller::catalog::Protocol;
use weir_xds::{
    ResourceType,
    envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    google::rpc,
};

use crate::mesh::{BUYER, Controller, Delta, STORE, mesh, service};

const STORE_CLUSTER: &str = "bookstore/bookstore|80";
const WAREHOUSE_CLUSTER: &str = "warehouse/warehouse|80";

#[tokio::test]
async fn without_a_certificate_nothing_is_served() {
    let controller = Controller::start().await;
    let mut client = AggregatedDiscoveryServiceClient::new(controller.channel(None).await);
    let refused = client
        .delta_aggregated_resources(tokio_stream::pending())
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        controller
            .metrics()
            .await
            .contains("weir_xds_refused_total{reason=\"no_certificate\"} 1")
    );
}

#[tokio::test]
async fn another_pods_configuration_is_refused() {
    let controller = Controller::start().await;
    let certificate = controller.certificate("bookbuyer").await;
    let mut stream = Delta::open(&controller, &certificate, STORE).await.unwrap();
    stream.subscribe(ResourceType::Listener, &["inbound"]).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::PermissionDenied);
    assert!(
        controller
            .metrics()
            .await
            .contains("weir_xds_refused_total{reason=\"node_mismatch\"} 1")
    );
}

#[tokio::test]
async fn an_address_is_served_on_demand_and_updated_only_when_it_changes() {
    let controller = Controller::start().await;
    let mut stream = controller.connect("bookbuyer").await;
    stream.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
    let (first, removed) = stream.update().await;
    assert_eq!(first.len(), 1);
    assert!(removed.is_empty());

    controller.change_service("warehouse", |service| service.ports[0].endpoints.clear());
    controller.change_service("bookstore", |service| service.ports[0].endpoints.clear());
    let (second, _) = stream.update().await;
    assert_eq!(
        second.keys().collect::<Vec<_>>(),
        [STORE_CLUSTER],
        "nothing was sent for the warehouse"
    );
    assert_ne!(first[STORE_CLUSTER], second[STORE_CLUSTER]);
    assert!(
        controller
            .metrics()
            .await
            .contains("weir_xds_sessions_woken_total 1")
    );
}

#[tokio::test]
async fn what_does_not_exist_is_said_to_be_removed_until_it_appears() {
    let controller = Controller::start().await;
    let mut stream = controller.connect("bookbuyer").await;
    stream.subscribe(ResourceType::Listener, &["10.96.0.7:80"]).await;
    assert_eq!(stream.update().await.1, ["10.96.0.7:80"]);
    controller.change(|snapshot| {
        let service = service("late", 7, Protocol::Tcp);
        snapshot
            .addresses
            .insert(service.cluster_ips[0], service.key.clone());
        snapshot.services.insert(service.key.clone(), Arc::new(service));
    });
    assert!(stream.update().await.0.contains_key("10.96.0.7:80"));
    controller.change(|snapshot| {
        let key = snapshot.addresses.remove(&[10, 96, 0, 7].into()).unwrap();
        snapshot.services.remove(&key);
    });
    assert_eq!(stream.update().await.1, ["10.96.0.7:80"]);
}

#[tokio::test]
async fn an_unsubscribed_name_is_not_heard_of_again() {
    let controller = Controller::start().await;
    let mut stream = controller.connect("bookbuyer").await;
    stream
        .subscribe(ResourceType::Endpoints, &[STORE_CLUSTER, WAREHOUSE_CLUSTER])
        .await;
    assert_eq!(stream.update().await.0.len(), 2);
    let gone = vec![STORE_CLUSTER.to_owned()];
    stream
        .send(ResourceType::Endpoints, |request| {
            request.resource_names_unsubscribe = gone
        })
        .await;
    // The answer to a later request shows that the unsubscription was taken in.
    stream.subscribe(ResourceType::Secret, &["trust-bundle"]).await;
    assert!(stream.update().await.0.contains_key("trust-bundle"));
    controller.change_service("bookstore", |service| service.ports[0].endpoints.clear());
    controller.change_service("warehouse", |service| service.ports[0].endpoints.clear());
    let (update, _) = stream.update().await;
    assert_eq!(update.keys().collect::<Vec<_>>(), [WAREHOUSE_CLUSTER]);
}

#[tokio::test]
async fn after_a_restart_of_the_controller_nothing_is_resent() {
    let controller = Controller::start().await;
    let mut stream = controller.connect("bookbuyer").await;
    stream
        .subscribe(ResourceType::Cluster, &[STORE_CLUSTER, WAREHOUSE_CLUSTER])
        .await;
    let (held, _) = stream.update().await;
    let asked = Instant::now();
    let state = controller.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Unavailable);

    let controller = Controller::start_with(state, mesh()).await;
    let mut stream = controller.connect("bookbuyer").await;
    let versions: BTreeMap<_, _> = held.into_iter().collect();
    stream
        .send(ResourceType::Cluster, |request| {
            request.resource_names_subscribe = versions.keys().cloned().collect();
            request.initial_resource_versions = versions;
        })
        .await;
    stream.subscribe(ResourceType::Secret, &["trust-bundle"]).await;
    assert!(
        stream.update().await.0.contains_key("trust-bundle"),
        "the first response is not about clusters"
    );
}

#[tokio::test]
async fn a_refused_resource_is_not_sent_again_until_it_changes() {
    let controller = Controller::start().await;
    let mut stream = controller.connect("bookbuyer").await;
    stream.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
    let response = stream.next().await.unwrap();
    stream
        .send(ResourceType::Endpoints, |request| {
            request.response_nonce = response.nonce;
            request.error_detail = Some(rpc::Status {
                code: 3,
                message: "no".to_owned(),
            });
        })
        .await;
    stream.subscribe(ResourceType::Secret, &["trust-bundle"]).await;
    assert!(stream.update().await.0.contains_key("trust-bundle"));
    assert!(
        controller
            .metrics()
            .await
            .contains("weir_xds_nacks_total{type=\"eds\"} 1")
    );
    controller.change_service("bookstore", |service| service.ports[0].endpoints.clear());
    assert!(stream.update().await.0.contains_key(STORE_CLUSTER));
}

#[tokio::test]
async fn the_newest_stream_of_a_pod_wins() {
    let controller = Controller::start().await;
    let certificate = controller.certificate("bookbuyer").await;
    let mut older = Delta::open(&controller, &certificate, BUYER).await.unwrap();
    older.subscribe(ResourceType::Listener, &["outbound"]).await;
    older.update().await;
    let mut newer = Delta::open(&controller, &certificate, BUYER).await.unwrap();
    newer.subscribe(ResourceType::Listener, &["outbound"]).await;
    newer.update().await;
    assert_eq!(older.next().await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn a_pod_that_vanishes_loses_its_stream() {
    let controller = Controller::start().await;
    let mut stream = controller.connect("bookbuyer").await;
    stream.subscribe(ResourceType::Listener, &["outbound"]).await;
    stream.update().await;
    controller.change(|snapshot| drop(snapshot.pods.remove(BUYER)));
    assert_eq!(stream.next().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_envoy_may_name_two_ports_of_ten_thousand_services() {
    let controller = Controller::start().await;
    let mut stream = controller.connect("bookbuyer").await;
    for port in [80, 443] {
        let names = (0..10_000).map(|n| format!("a/b{n}|{port}")).collect();
        stream
            .send(ResourceType::Endpoints, |request| {
                request.resource_names_subscribe = names
            })
            .await;
        assert_eq!(stream.next().await.unwrap().removed_resources.len(), 10_000);
    }
}

#[tokio::test]
async fn too_many_names_end_the_stream() {
    let controller = Controller::start().await;
    let mut stream = controller.connect("bookbuyer").await;
    let names = (0..50_001).map(|n| format!("a/b{n}|80")).collect();
    stream
        .send(ResourceType::Endpoints, |request| {
            request.resource_names_subscribe = names
        })
        .await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_client_that_never_reads_holds_little_and_delays_nobody() {
    const CHANGES: usize = 80;
    let controller = Controller::start().await;
    let mut deaf = controller.connect("bookstore").await;
    deaf.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
    let mut reader = controller.connect("bookbuyer").await;
    reader.subscribe(ResourceType::Endpoints, &[STORE_CLUSTER]).await;
    reader.update().await;
    for change in 0..CHANGES {
        controller.change_service("bookstore", |service| {
            let endpoint = service.ports[0].endpoints[0].clone();
            service.ports[0].endpoints = vec![endpoint; 1000 + change];
        });
        assert!(reader.update().await.0.contains_key(STORE_CLUSTER));
    }
    let metrics = controller.metrics().await;
    let sent = metrics
        .lines()
        .find_map(|line| line.strip_prefix("osm_proxy_response_send_success_count{type=\"eds\"} "))
        .and_then(|count| count.parse::<usize>().ok())
        .unwrap();
    let to_the_deaf = sent - (CHANGES + 1);
    assert!(
        to_the_deaf < CHANGES / 2,
        "{to_the_deaf} responses are under way to a client that does not read"
    );
    drop(deaf);
}
