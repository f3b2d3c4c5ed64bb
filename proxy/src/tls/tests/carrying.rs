use super::*;

#[tokio::test]
async fn to_carry_is_agreed_on_by_sidecars_that_prove_who_they_are() {
    let pair = Pair::new();
    let both = &["osm-h1h2", "osm"][..];
    for (offered, carrying, agreed) in [
        (both, true, "osm-h1h2"),
        (both, false, "osm"),
        (&["osm"], true, "osm"),
        (&["osm-tcp", "osm"], true, "osm"),
        (&["osm", "osm-h1h2"], true, "osm-h1h2"),
    ] {
        let outcome = handshake_with(&pair.server, &pair.client, Pin::Cluster, offered, carrying).await;
        let (accepted, originated) = (outcome.server.unwrap(), outcome.client.unwrap());
        assert_eq!(accepted.alpn.as_deref(), Some(agreed), "{offered:?} {carrying}");
        assert_eq!(originated.alpn.as_deref(), Some(agreed));
        assert_eq!(accepted.carries, agreed == "osm-h1h2");
        assert_eq!(pair.client.carries(agreed), accepted.carries);
    }
    let optional = ServerSide::new(
        &ServerTls {
            require_client_certificate: false,
            ..server_tls()
        },
        &pair.server_store,
    );
    let outcome = handshake_with(&optional, &pair.client, Pin::Cluster, both, true).await;
    assert!(!outcome.server.unwrap().carries);
    for other in ["osm-h1h2-h1h2", "-h1h2", "h2-h1h2", "h1h2"] {
        assert!(!pair.client.carries(other), "{other}");
    }
}
