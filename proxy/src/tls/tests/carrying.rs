use super::*;

const REQUESTS: Option<Carried> = Some(Carried::Requests);
const CONNECTIONS: Option<Carried> = Some(Carried::Connections);

#[tokio::test]
async fn to_carry_is_agreed_on_by_sidecars_that_prove_who_they_are() {
    let pair = Pair::new();
    let both = &["osm-h1h2", "osm"][..];
    for (offered, carried, agreed) in [
        (both, REQUESTS, "osm-h1h2"),
        (both, None, "osm"),
        (both, CONNECTIONS, "osm"),
        (&["osm"], REQUESTS, "osm"),
        (&["osm-tcp", "osm"], REQUESTS, "osm"),
        (&["osm", "osm-h1h2"], REQUESTS, "osm-h1h2"),
        (&["osm-connect", "osm"], CONNECTIONS, "osm-connect"),
        (&["osm-connect", "osm"], REQUESTS, "osm"),
    ] {
        let outcome = handshake_with(&pair.server, &pair.client, Pin::Cluster, offered, carried).await;
        let (accepted, originated) = (outcome.server.unwrap(), outcome.client.unwrap());
        assert_eq!(accepted.alpn.as_deref(), Some(agreed), "{offered:?} {carried:?}");
        assert_eq!(originated.alpn.as_deref(), Some(agreed));
        assert_eq!(accepted.carries, agreed != "osm");
        let carries = carried.is_some_and(|carried| pair.client.carries(agreed, carried));
        assert_eq!(carries, accepted.carries);
    }
    let optional = ServerSide::new(
        &ServerTls {
            require_client_certificate: false,
            ..server_tls()
        },
        &pair.server_store,
    );
    let outcome = handshake_with(&optional, &pair.client, Pin::Cluster, both, REQUESTS).await;
    assert!(!outcome.server.unwrap().carries);
}

#[test]
fn a_protocol_carries_what_its_name_says() {
    let client = Pair::new().client;
    for (name, carried) in [
        ("osm-h1h2", Carried::Requests),
        ("osm-connect", Carried::Connections),
        ("osm-tcp-connect", Carried::Connections),
    ] {
        assert!(client.carries(name, carried), "{name}");
    }
    for name in [
        "osm-h1h2-h1h2",
        "-h1h2",
        "h2-h1h2",
        "h1h2",
        "osm-tcp-h1h2",
        "osm-connect",
    ] {
        assert!(!client.carries(name, Carried::Requests), "{name}");
    }
    for name in [
        "osm-h1h2",
        "-connect",
        "-tcp-connect",
        "h2-connect",
        "osm-connect-connect",
    ] {
        assert!(!client.carries(name, Carried::Connections), "{name}");
    }
}
