//! Pages that tools of Envoy read.

use weir_xds::envoy::config::listener::v3::Listener as ListenerMessage;

use super::*;

#[tokio::test]
async fn a_refused_listener_shows_the_one_in_force_and_why_not_the_other() {
    let served = serve();
    let message = crate::bootstrap::from_json::<ListenerMessage>("{name: in}").unwrap();
    let source = Source {
        version: "3".to_owned(),
        message: Some(Arc::new(pack(&message))),
    };
    let listener = Listener {
        name: "in".to_owned(),
        address: None,
        original_dst: false,
        direction: crate::model::Direction::Inbound,
        inspect: crate::model::Inspect::default(),
        chains: Vec::new(),
        default_chain: None,
    };
    let _watched = served.store.watch::<Listener>("in");
    served.store.apply("in", State::Ready(Arc::new(listener)), source);
    served
        .store
        .reject(ResourceType::Listener, "in", "no cluster".to_owned());
    let page = get(served.admin, "/config_dump?resource=dynamic_listeners")
        .await
        .json();
    let shown = &page["configs"][0];
    assert_eq!(
        shown["@type"],
        "type.googleapis.com/envoy.admin.v3.ListenersConfigDump.DynamicListener"
    );
    assert_eq!(shown["active_state"]["version_info"], "3");
    assert_eq!(shown["active_state"]["listener"]["name"], "in");
    assert_eq!(
        (&shown["client_status"], &shown["error_state"]["details"]),
        (&"NACKED".into(), &"no cluster".into())
    );
    let named = |pattern: &str| format!("/config_dump?resource=dynamic_listeners&name_regex={pattern}");
    let count = async |pattern| {
        get(served.admin, &named(pattern)).await.json()["configs"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((count("^in$").await, count("out").await), (1, 0));
    assert_eq!(get(served.admin, "/config_dump?resource=odd").await.status, 404);
    assert_eq!(get(served.admin, "/config_dump?name_regex=(").await.status, 400);
}

#[tokio::test]
async fn server_and_listeners_are_shown_as_envoy_does() {
    let served = serve();
    let server = get(served.admin, "/server_info").await.json();
    assert_eq!(
        (&server["state"], &server["node"]["id"]),
        (&"LIVE".into(), &"uid-1".into())
    );
    assert_eq!(server["command_line_options"]["mode"], "Serve");
    assert_eq!(
        get(served.admin, "/listeners").await.body,
        "inbound::127.0.0.1:15003\n"
    );
    let listeners = get(served.admin, "/listeners?format=json").await.json();
    let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
    assert_eq!(address["port_value"], 15003);
}

#[tokio::test]
async fn a_proxy_can_be_told_to_be_unready() {
    let served = serve();
    assert_eq!(get(served.admin, "/healthcheck/fail").await.status, 405);
    assert_eq!(
        ask(served.admin, "POST", "/healthcheck/fail", "").await.status,
        200
    );
    for server in [served.admin, served.stats, served.health] {
        assert_eq!(get(server, "/ready").await.status, 503);
    }
    assert_eq!(
        get(served.admin, "/server_info").await.json()["state"],
        "DRAINING"
    );
    assert_eq!(ask(served.admin, "POST", "/healthcheck/ok", "").await.status, 200);
    assert_eq!(get(served.admin, "/ready").await.status, 200);
}

#[tokio::test]
async fn stats_are_filtered() {
    let served = serve();
    assert_eq!(
        get(served.admin, "/stats").await.body,
        "a_total 1\n".replace(' ', ": ")
    );
    assert_eq!(get(served.admin, "/stats?filter=%5Eb").await.body, "\n");
    let json = get(served.admin, "/stats?format=json&usedonly").await.json();
    assert_eq!(
        json,
        serde_json::json!({ "stats": [{ "name": "a_total", "value": 1 }] })
    );
    assert_eq!(get(served.admin, "/stats?format=html").await.status, 400);
}
