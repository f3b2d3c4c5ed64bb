//! The admin pages.

use std::sync::atomic::Ordering;

use http::{Method, StatusCode, request::Parts};

use super::{
    AdminState, Page, dump, info, json, logging, metrics, not_allowed, query, ready, show, stats, text,
};

/// What there is, as the first page shows it.
const PAGES: [(&str, &str, &str); 19] = [
    (
        "GET",
        "/ready",
        "200 once the proxy serves; 503 and what it waits for before",
    ),
    ("GET", "/live", "200 while the process runs"),
    (
        "GET",
        "/config_dump",
        "every resource, private keys left out; ?resource=FIELD, ?name_regex=EXPRESSION",
    ),
    ("GET", "/certs", "certificates and roots in use"),
    (
        "GET",
        "/clusters",
        "clusters, their endpoints and load; ?format=json, ?filter=EXPRESSION",
    ),
    ("GET", "/listeners", "bound listeners; ?format=json"),
    ("GET", "/server_info", "version, state, age, options"),
    (
        "GET",
        "/stats",
        "metrics, one a line; ?filter=EXPRESSION, ?usedonly, ?format=text|json|prometheus",
    ),
    ("GET", "/stats/prometheus", "metrics"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/hot_restart_version", "disabled: there is no hot restart"),
    ("GET", "/logging", "the log level"),
    (
        "POST",
        "/logging?level=LEVEL",
        "change the log level: off, error, warn, info, debug, trace",
    ),
    ("POST", "/healthcheck/fail", "be unready"),
    ("POST", "/healthcheck/ok", "be ready again"),
    (
        "POST",
        "/drain_listeners",
        "be unready, and end inbound connections",
    ),
    ("POST", "/quitquitquit", "drain, then end the process"),
    ("POST", "/shutdown", "the same"),
    ("GET", "/help", "this page"),
];

/// Answers one request.
pub(super) fn answer(request: &Parts, state: &AdminState) -> Page {
    let path = request.uri.path();
    let reading = matches!(request.method, Method::GET | Method::HEAD);
    match path {
        "/logging" => return log_level(request, reading, state),
        "/drain_listeners" | "/healthcheck/fail" | "/healthcheck/ok" | "/quitquitquit" | "/shutdown" => {
            return if request.method == Method::POST {
                change(path, state)
            } else {
                not_allowed("POST", "This changes the proxy: use POST.")
            };
        }
        _ => {}
    }
    let page = match path {
        "/" | "/help" => index(),
        "/ready" => ready(state),
        "/live" => text(StatusCode::OK, "LIVE"),
        "/config_dump" => dump::page(request, state),
        "/stats" => stats::page(request, state),
        "/server_info" => json(&info::server(state)),
        "/hot_restart_version" => text(StatusCode::OK, "disabled"),
        "/listeners" if in_json(request) => json(&info::listeners_json(&(state.listeners)())),
        "/listeners" => text(StatusCode::OK, info::listeners_text(&(state.listeners)())),
        "/certs" => json(&show::certs(&(state.certificates)(), (state.identity)().as_ref())),
        "/clusters" => clusters(request, state),
        "/stats/prometheus" | "/metrics" => metrics(state),
        _ => {
            return text(
                StatusCode::NOT_FOUND,
                format!("There is no page {path}; / lists those that there are."),
            );
        }
    };
    if reading {
        page
    } else {
        not_allowed("GET, HEAD", "This page is only read: use GET.")
    }
}

fn in_json(request: &Parts) -> bool {
    query::parameter(request, "format").as_deref() == Some("json")
}

fn clusters(request: &Parts, state: &AdminState) -> Page {
    let filter = match query::expression(request, "filter") {
        Ok(filter) => filter,
        Err(page) => return *page,
    };
    let mut clusters = (state.clusters)();
    clusters.retain(|cluster| {
        filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(&cluster.name))
    });
    if in_json(request) {
        json(&show::clusters_json(&clusters))
    } else {
        text(StatusCode::OK, show::clusters_text(&clusters))
    }
}

fn index() -> Page {
    let mut lines = format!("weir-proxy {}\n\n", env!("CARGO_PKG_VERSION"));
    for (method, path, what) in PAGES {
        lines.push_str(&format!("{method:<5}{path:<23}{what}\n"));
    }
    text(StatusCode::OK, lines)
}

fn change(path: &str, state: &AdminState) -> Page {
    tracing::info!(path, "a change was asked for at the admin address");
    let said = match path {
        "/healthcheck/fail" | "/healthcheck/ok" => {
            state
                .failing
                .store(path == "/healthcheck/fail", Ordering::Relaxed);
            "OK"
        }
        "/drain_listeners" => {
            (state.drain)();
            "OK: the proxy is not ready any more, and inbound connections end after their requests."
        }
        _ => {
            (state.stop)();
            "OK: the proxy drains, then ends."
        }
    };
    text(StatusCode::OK, said)
}

fn log_level(request: &Parts, reading: bool, state: &AdminState) -> Page {
    let wanted = query::parameter(request, "level");
    let Some(logging) = &state.logging else {
        return text(StatusCode::NOT_FOUND, "This process does not log.");
    };
    if request.method == Method::POST {
        let Some(wanted) = wanted else {
            return text(
                StatusCode::BAD_REQUEST,
                format!(
                    "Say which: /logging?level=LEVEL with {}.",
                    logging::LEVELS.join(", ")
                ),
            );
        };
        let changed = logging::parse(&wanted).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()));
        let changed = changed.and_then(|level| {
            tracing::info!(%level, "the log level changes");
            logging
                .change(level)
                .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))
        });
        if let Err((status, why)) = changed {
            return text(status, why);
        }
    } else if !reading || wanted.is_some() {
        return not_allowed(
            "GET, HEAD, POST",
            "Changing the level needs POST; GET without parameters shows it.",
        );
    }
    match logging.current() {
        Some(level) => text(StatusCode::OK, format!("level: {level}")),
        None => text(StatusCode::INTERNAL_SERVER_ERROR, "The log is gone."),
    }
}
