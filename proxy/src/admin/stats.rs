//! Metrics as `/stats` shows them: one sample a line, filtered.

use http::{StatusCode, request::Parts};
use serde_json::{Value, json};

use super::{AdminState, Page, json, metrics, query, text};

/// The samples, as text or JSON; or all metrics in Prometheus' format.
pub(super) fn page(request: &Parts, state: &AdminState) -> Page {
    let filter = match query::expression(request, "filter") {
        Ok(filter) => filter,
        Err(page) => return *page,
    };
    let used_only = query::has(request, "usedonly");
    let rendered = (state.metrics)();
    let samples = rendered.lines().filter_map(sample).filter(|(name, value)| {
        let matches = filter.as_ref().is_none_or(|filter| filter.is_match(name));
        matches && !(used_only && value.parse() == Ok(0.0))
    });
    match query::parameter(request, "format").as_deref() {
        None | Some("text") => {
            let lines: Vec<_> = samples.map(|(name, value)| format!("{name}: {value}")).collect();
            text(StatusCode::OK, lines.join("\n"))
        }
        Some("json") => {
            let stats: Vec<_> = samples
                .map(|(name, value)| json!({ "name": name, "value": number(value) }))
                .collect();
            json(&json!({ "stats": stats }))
        }
        Some("prometheus") => metrics(state),
        Some(other) => text(
            StatusCode::BAD_REQUEST,
            format!("There is no format {other:?}: use text, json or prometheus."),
        ),
    }
}

/// Name with labels, and value.
fn sample(line: &str) -> Option<(&str, &str)> {
    if line.starts_with('#') {
        return None;
    }
    // Label values may hold spaces; a number does not. An exemplar would follow it.
    let line = line.split(" # ").next()?;
    line.rsplit_once(' ')
}

fn number(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return whole.into();
    }
    text.parse::<f64>().map_or_else(|_| text.into(), Value::from)
}
