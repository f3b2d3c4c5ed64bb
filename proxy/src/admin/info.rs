//! The server and its listeners as the pages show them.

use std::{net::SocketAddr, sync::atomic::Ordering};

use serde_json::{Value, json};

use super::{AdminState, ready_reasons};

/// Envoy's form of a version: revision, version, state of the sources, kind of build, TLS library.
fn version() -> String {
    let build = if cfg!(debug_assertions) {
        "DEBUG"
    } else {
        "RELEASE"
    };
    format!("weir/{}/Clean/{build}/aws-lc", env!("CARGO_PKG_VERSION"))
}

/// The server's state in Envoy's words.
pub(super) fn state(state: &AdminState) -> &'static str {
    if state.failing.load(Ordering::Relaxed) || (state.draining)() {
        "DRAINING"
    } else if ready_reasons(state).is_empty() {
        "LIVE"
    } else {
        "INITIALIZING"
    }
}

/// Version, state, age, options.
pub(super) fn server(admin: &AdminState) -> Value {
    let age = format!("{}s", admin.started.elapsed().as_secs());
    json!({
        "version": version(),
        "state": state(admin),
        "uptime_current_epoch": age,
        "uptime_all_epochs": age,
        "hot_restart_version": "disabled",
        "command_line_options": admin.options,
        "node": { "id": admin.node.0, "cluster": admin.node.1, "user_agent_name": env!("CARGO_PKG_NAME") },
    })
}

/// Bound listeners, a line each.
pub(super) fn listeners_text(listeners: &[(String, SocketAddr)]) -> String {
    let lines = listeners
        .iter()
        .map(|(name, address)| format!("{name}::{address}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Bound listeners as JSON.
pub(super) fn listeners_json(listeners: &[(String, SocketAddr)]) -> Value {
    let statuses: Vec<_> = listeners
        .iter()
        .map(|(name, address)| json!({ "name": name, "local_address": socket_address(*address) }))
        .collect();
    json!({ "listener_statuses": statuses })
}

/// An address in the form of the contract.
pub(super) fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
