//! Probes of TCP, which the kubelet sends to the proxy.

use super::*;

async fn probe(served: &Served, port: &str) -> Answer {
    ask(
        served.health,
        "GET",
        "/osm-healthcheck",
        &format!("Original-Tcp-Port: {port}\r\n"),
    )
    .await
}

#[tokio::test]
async fn probes_dial_the_application_on_either_loopback() {
    let served = serve();
    for ip in [
        Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::from(Ipv6Addr::LOCALHOST),
    ] {
        let Ok(application) = TcpListener::bind((ip, 0)).await else {
            // No IPv6 on this machine.
            continue;
        };
        let port = application.local_addr().unwrap().port().to_string();
        assert_eq!(probe(&served, &port).await.status, 200);
        drop(application);
        let answer = probe(&served, &port).await;
        assert_eq!(answer.status, 503);
        assert!(answer.body.contains(&port), "{}", answer.body);
    }
}

#[tokio::test]
async fn probes_need_a_port_that_is_not_the_proxys() {
    let served = serve();
    for wrong in ["", "0", "65536", "http", "80\r\nOriginal-Tcp-Port: 81"] {
        assert_eq!(probe(&served, wrong).await.status, 400, "{wrong}");
    }
    assert_eq!(get(served.health, "/osm-healthcheck").await.status, 400);
    served.fake.own.lock().push(served.stats);
    let answer = probe(&served, &served.stats.port().to_string()).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("proxy's own"), "{}", answer.body);
}
