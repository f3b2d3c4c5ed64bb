use std::sync::Arc;

use super::*;
use crate::model::{Direction, Inspect, Tcp, Terminal, WeightedCluster};

fn chain(matches: ChainMatch) -> Arc<FilterChain> {
    Arc::new(FilterChain {
        name: String::new(),
        matches,
        tls: None,
        network: Vec::new(),
        terminal: Terminal::Tcp(Tcp {
            clusters: vec![WeightedCluster {
                cluster: "c".to_owned(),
                weight: 1,
            }],
            idle_timeout: None,
        }),
    })
}

fn listener(matches: &[ChainMatch]) -> Listener {
    Listener {
        name: "l".to_owned(),
        address: None,
        original_dst: true,
        direction: Direction::Inbound,
        inspect: Inspect::default(),
        chains: matches.iter().cloned().map(chain).collect(),
        default_chain: None,
    }
}

fn facts(destination: &str, transport: Transport, sni: &str, alpn: &[&str]) -> Facts {
    Facts {
        destination: destination.parse().unwrap(),
        source: "10.0.0.9:40000".parse().unwrap(),
        transport,
        hello: Hello {
            sni: sni.to_owned(),
            alpn: alpn.iter().map(|name| (*name).to_owned()).collect(),
        },
    }
}

fn port(port: u16) -> ChainMatch {
    ChainMatch {
        destination_port: Some(port),
        ..ChainMatch::default()
    }
}

fn mesh(number: u16, alpn: &[&str]) -> ChainMatch {
    ChainMatch {
        transport: Some(Transport::Tls),
        application_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
        ..port(number)
    }
}

#[test]
fn the_outbound_side_chooses_the_inbound_chain_by_alpn() {
    let listener = listener(&[
        mesh(80, &["osm"]),
        mesh(80, &["osm-tcp"]),
        mesh(81, &["osm", "osm-tcp"]),
    ]);
    let at = |address, alpn: &[&str]| select(&listener, &facts(address, Transport::Tls, "", alpn));
    assert_eq!(at("10.0.0.1:80", &["osm"]), Some(0));
    assert_eq!(at("10.0.0.1:80", &["osm-tcp", "osm"]), Some(1));
    assert_eq!(at("10.0.0.1:81", &["osm-tcp", "osm"]), Some(2));
    assert_eq!(at("10.0.0.1:80", &["h2"]), None);
    assert_eq!(at("10.0.0.1:82", &["osm"]), None);
}

#[test]
fn plaintext_meets_no_chain_that_wants_tls() {
    let listener = listener(&[mesh(80, &["osm"])]);
    assert_eq!(
        select(&listener, &facts("10.0.0.1:80", Transport::RawBuffer, "", &[])),
        None
    );
}

#[test]
fn undeclared_ports_tell_http_from_the_rest() {
    let http = ChainMatch {
        application_protocols: vec!["http/1.1".to_owned(), "h2c".to_owned()],
        ..ChainMatch::default()
    };
    let listener = listener(&[http, ChainMatch::default()]);
    let source = "10.0.0.9:40000".parse().unwrap();
    let destination = "10.0.0.1:80".parse().unwrap();
    let chosen = |detected| select(&listener, &Facts::new(source, destination, Some(&detected)));
    assert_eq!(chosen(Detected::Http1), Some(0));
    assert_eq!(chosen(Detected::Http2), Some(0));
    assert_eq!(chosen(Detected::Opaque), Some(1));
    assert_eq!(chosen(Detected::Tls(Hello::default())), Some(1));
}

#[test]
fn the_longest_prefix_and_the_most_exact_name_win() {
    let net = |net: &str| ChainMatch {
        destination: vec![net.parse().unwrap()],
        ..ChainMatch::default()
    };
    let nets = listener(&[net("10.0.0.0/8"), net("10.1.0.0/16"), ChainMatch::default()]);
    let at = |address| select(&nets, &facts(address, Transport::RawBuffer, "", &[]));
    assert_eq!(at("10.1.2.3:80"), Some(1));
    assert_eq!(at("10.2.2.3:80"), Some(0));
    assert_eq!(at("[fd00::1]:80"), Some(2));

    let name = |name: &str| ChainMatch {
        server_names: vec![name.to_owned()],
        ..ChainMatch::default()
    };
    let names = listener(&[name("*.com"), name("*.example.com"), name("a.example.com")]);
    let named = |sni| select(&names, &facts("10.0.0.1:443", Transport::Tls, sni, &[]));
    assert_eq!(named("a.example.com"), Some(2));
    assert_eq!(named("b.example.com"), Some(1));
    assert_eq!(named("b.com"), Some(0));
    assert_eq!(named("com"), None);
}

#[test]
fn a_more_specific_chain_that_fails_later_is_not_given_up_for_another() {
    let specific = ChainMatch {
        source_ports: vec![1],
        ..port(80)
    };
    let listener = listener(&[specific, ChainMatch::default()]);
    assert_eq!(
        select(&listener, &facts("10.0.0.1:80", Transport::RawBuffer, "", &[])),
        None
    );
    assert_eq!(
        select(&listener, &facts("10.0.0.1:81", Transport::RawBuffer, "", &[])),
        Some(1)
    );
}
