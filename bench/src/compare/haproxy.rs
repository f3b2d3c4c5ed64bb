//! The same pair by HAProxy: mutual TLS between the two, one principal allowed, routing by host.

use std::{path::Path, process::Command};

use super::{make::Place, pods::Side, scenarios::Protocol};
use crate::{
    bootstrap::{Between, CLIENT, SERVER},
    peers::HOST,
};

/// Lines on stdout, for the section of what holds for all.
const LOG: &str = "    log stdout format raw local0\n";
/// As much of the access log of the others as it has.
const LOGGED: &str = r#"    log global
    log-format '{"start_time":"%tr","method":"%HM","path":"%HP","protocol":"%HV","response_code":%ST,"response_flags":"%ts","time_to_first_byte":%Tr,"upstream_cluster":"%b","bytes_received":%U,"bytes_sent":%B,"duration":%Ta,"client":"%ci","upstream_host":"%si:%sp"}'
"#;

/// The command that runs one side in the foreground.
///
/// # Errors
/// When its files cannot be written.
pub(crate) fn command(program: &Path, place: &Place<'_>, between: Between) -> anyhow::Result<Command> {
    let (certificate, key) = place.identity();
    let identity = place.write("identity.pem", &format!("{certificate}{key}"))?;
    let root = place.write("root.pem", &place.identities.root)?;
    let files = format!("crt {} ca-file {}", identity.display(), root.display());
    let file = place.write("haproxy.cfg", &configuration(place, between, &files))?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

fn configuration(place: &Place<'_>, between: Between, files: &str) -> String {
    let mode = if place.protocol.is_http() { "http" } else { "tcp" };
    let h2_between = match (place.protocol, between) {
        (Protocol::Grpc, _) | (Protocol::Http1, Between::Http2) => " alpn h2",
        (Protocol::Http1, _) => " alpn http/1.1",
        _ => "",
    };
    let clear_h2 = if place.protocol == Protocol::Grpc {
        " proto h2"
    } else {
        ""
    };
    let tls = place.protocol != Protocol::TcpPlain;
    let (bind, server, rules) = match (place.side, tls) {
        (Side::Client, true) => (
            clear_h2.to_owned(),
            format!(" ssl {files} verify required verifyhost {SERVER} ssl-min-ver TLSv1.3{h2_between}"),
            String::new(),
        ),
        (Side::Server, true) => (
            format!(" ssl {files} verify required ssl-min-ver TLSv1.3{h2_between}"),
            clear_h2.to_owned(),
            refusal(place.protocol),
        ),
        (_, false) => (String::new(), String::new(), String::new()),
    };
    let routing = if place.protocol.is_http() {
        format!("    acl known hdr(host) -i {HOST} {HOST}:80\n    use_backend next if known\n")
    } else {
        "    default_backend next\n".to_owned()
    };
    let (log, logged) = if place.access_log { (LOG, LOGGED) } else { ("", "") };
    let (port, next) = (place.port(), place.next());
    format!(
        "global
    nbthread 1
    maxconn 8000
    tune.ssl.default-dh-param 2048
{log}defaults
    mode {mode}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    http-reuse always
{logged}frontend all
    bind 0.0.0.0:{port}{bind}
{rules}{routing}backend next
    server next {next}{server}
"
    )
}

/// Only the client's identity may pass. Of a certificate, this version reads the common name, not the URI.
fn refusal(protocol: Protocol) -> String {
    let named = format!("unless {{ ssl_c_s_dn(cn) -m str {CLIENT} }}");
    match protocol.is_http() {
        true => format!("    http-request deny {named}\n"),
        false => format!("    tcp-request content reject {named}\n"),
    }
}
