//! The admin pages.

use http::{Method, StatusCode, request::Parts};

use super::{AdminState, Page, json, logging, metrics, not_allowed, ready, show, text};

/// What there is, as the first page shows it.
const PAGES: [(&str, &str, &str); 12] = [
    (
        "GET",
        "/ready",
        "200 once the proxy serves; 503 and what it waits for before",
    ),
    ("GET", "/live", "200 while the process runs"),
    ("GET", "/config_dump", "every resource, private keys left out"),
    ("GET", "/certs", "certificates and roots in use"),
    (
        "GET",
        "/clusters",
        "clusters, their endpoints and load; ?format=json",
    ),
    ("GET", "/stats/prometheus", "metrics"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/logging", "the log level"),
    (
        "POST",
        "/logging?level=LEVEL",
        "change the log level: off, error, warn, info, debug, trace",
    ),
    (
        "POST",
        "/drain_listeners",
        "be unready, and end inbound connections",
    ),
    ("POST", "/quitquitquit", "drain, then end the process"),
    ("POST", "/shutdown", "the same"),
];

/// Answers one request.
pub(super) fn answer(request: &Parts, state: &AdminState) -> Page {
    let path = request.uri.path();
    let reading = matches!(request.method, Method::GET | Method::HEAD);
    match path {
        "/logging" => return log_level(request, reading, state),
        "/drain_listeners" | "/quitquitquit" | "/shutdown" => {
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
        "/config_dump" => json(&show::config_dump(&(state.dump)(), &state.node)),
        "/certs" => json(&show::certs(&(state.certificates)(), (state.identity)().as_ref())),
        "/clusters" if parameter(request, "format") == Some("json") => {
            json(&show::clusters_json(&(state.clusters)()))
        }
        "/clusters" => text(StatusCode::OK, show::clusters_text(&(state.clusters)())),
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

fn index() -> Page {
    let mut lines = format!("weir-proxy {}\n\n", env!("CARGO_PKG_VERSION"));
    for (method, path, what) in PAGES {
        lines.push_str(&format!("{method:<5}{path:<23}{what}\n"));
    }
    text(StatusCode::OK, lines)
}

fn change(path: &str, state: &AdminState) -> Page {
    tracing::info!(path, "a change was asked for at the admin address");
    if path == "/drain_listeners" {
        (state.drain)();
        text(
            StatusCode::OK,
            "OK: the proxy is not ready any more, and inbound connections end after their requests.",
        )
    } else {
        (state.stop)();
        text(StatusCode::OK, "OK: the proxy drains, then ends.")
    }
}

fn log_level(request: &Parts, reading: bool, state: &AdminState) -> Page {
    let wanted = parameter(request, "level");
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
        let changed = logging::parse(wanted).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()));
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

/// The value of a query parameter. No value that a page knows needs decoding.
fn parameter<'a>(request: &'a Parts, name: &str) -> Option<&'a str> {
    let pairs = request.uri.query()?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}
