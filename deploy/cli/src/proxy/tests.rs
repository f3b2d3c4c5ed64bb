use serde_json::json;

use super::{columns, show};

#[test]
fn configuration_shows_what_was_refused() {
    let page = json!({ "configs": [
        { "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": { "node": {} } },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "static_listeners": [],
            "dynamic_listeners": [
                {
                    "name": "inbound", "state": "ready",
                    "active_state": { "version_info": "7", "last_updated": "2026-01-01T00:00:00Z" },
                },
                { "name": "10.0.0.1:80", "state": "absent", "error_state": { "details": "no cluster" } },
            ],
        },
    ] });
    let expected = "\
KIND       NAME          STATE    VERSION   UPDATED                REFUSED
listener   inbound       ready    7         2026-01-01T00:00:00Z   -
listener   10.0.0.1:80   absent   -         -                      no cluster
";
    assert_eq!(columns(&show::config(&page)), expected);
}

#[test]
fn certificates_show_whose_they_are_and_what_is_left() {
    let own = json!({
        "subject": "CN=a", "issuer": "CN=root", "expiration_time": "2026-01-02T00:00:00Z",
        "subject_alt_names": [{ "dns": "a.b" }, { "uri": "spiffe://cluster.local/ns/b/sa/a" }],
        "seconds_until_expiration": 7200,
    });
    let root = json!({ "subject": "CN=root", "issuer": "CN=root", "seconds_until_expiration": 0 });
    let page = json!({ "certificates": [
        { "name": "workload", "cert_chain": [own] },
        { "name": "roots", "ca_cert": [root] },
    ] });
    let rows = show::certs(&page);
    assert_eq!(
        rows[1],
        [
            "workload",
            "own",
            "spiffe://cluster.local/ns/b/sa/a",
            "CN=root",
            "2026-01-02T00:00:00Z",
            "2 hours"
        ]
    );
    assert_eq!(
        rows[2],
        ["roots", "trusted", "CN=root", "CN=root", "-", "expired"]
    );
}

#[test]
fn clusters_without_endpoints_are_shown_too() {
    let host = |address: &str| {
        json!({
            "address": { "socket_address": { "address": address, "port_value": 80 } },
            "namespace": "b", "pod": "p", "principal": "spiffe://x", "weight": 1, "in_flight": 3,
        })
    };
    let page = json!({ "cluster_statuses": [
        { "name": "b/s|80", "state": "ready", "host_statuses": [host("10.0.0.1"), host("fd00::1")] },
        { "name": "b/t|80", "state": "warming", "host_statuses": [] },
    ] });
    let rows = show::endpoints(&page);
    assert_eq!(
        rows[1],
        ["b/s|80", "ready", "10.0.0.1:80", "b/p", "spiffe://x", "1", "3"]
    );
    assert_eq!(rows[2][2], "[fd00::1]:80");
    assert_eq!(rows[3], ["b/t|80", "warming", "no endpoint"]);
}

#[test]
fn a_page_of_another_version_is_no_failure() {
    assert_eq!(show::config(&json!({ "configs": [{ "other": [{}] }] })).len(), 2);
    assert_eq!(show::certs(&json!(null)).len(), 1);
    assert_eq!(
        show::endpoints(&json!({ "cluster_statuses": [{}] }))[1],
        ["-", "-", "no endpoint"]
    );
}
