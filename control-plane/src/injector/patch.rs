//! What changed in a pod, on top of what the API server sent: that may hold fields of a newer Kubernetes, which this
//! program does not know and must not lose.

use json_patch::Patch;
use serde_json::{Map, Value};

/// The patch that makes of `sent` what `after` is of `before`. `before` is `sent` as far as it was understood.
pub(super) fn between(sent: &Value, before: &Value, after: &Value) -> Patch {
    json_patch::diff(sent, &overlay(sent, before, after))
}

fn overlay(sent: &Value, before: &Value, after: &Value) -> Value {
    if before == after {
        return sent.clone();
    }
    match (sent, before, after) {
        (Value::Object(sent), Value::Object(before), Value::Object(after)) => object(sent, before, after),
        (Value::Array(sent), Value::Array(before), Value::Array(after)) => {
            list(sent, before, after).unwrap_or_else(|| after.clone().into())
        }
        _ => after.clone(),
    }
}

fn object(sent: &Map<String, Value>, before: &Map<String, Value>, after: &Map<String, Value>) -> Value {
    let unknown = sent.iter().filter(|(key, _)| !before.contains_key(*key));
    let mut all: Map<_, _> = unknown.map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, value) in after {
        let value = match (sent.get(key), before.get(key)) {
            (Some(sent), Some(before)) => overlay(sent, before, value),
            // It was not sent, and is no news.
            (None, Some(before)) if before == value => continue,
            _ => value.clone(),
        };
        all.insert(key.clone(), value);
    }
    all.into()
}

/// Containers and volumes are the same where they have the same name, wherever they stand. `None`: not a list of such.
fn list(sent: &[Value], before: &[Value], after: &[Value]) -> Option<Value> {
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let find = |items: &[Value], wanted: &str| {
        items
            .iter()
            .find(|item| name(item).as_deref() == Some(wanted))
            .cloned()
    };
    let merged = after.iter().map(|item| {
        let wanted = name(item)?;
        Some(match (find(sent, &wanted), find(before, &wanted)) {
            (Some(sent), Some(before)) => overlay(&sent, &before, item),
            _ => item.clone(),
        })
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(sent: &Value, before: &Value, after: &Value) -> Value {
        let mut patched = sent.clone();
        json_patch::patch(&mut patched, &between(sent, before, after)).unwrap();
        patched
    }

    #[test]
    fn fields_that_are_not_known_stay_with_their_container() {
        let sent = json!({ "metadata": { "name": "a", "creationTimestamp": null }, "spec": {
            "novel": 1,
            "containers": [{ "name": "app", "novel": 2, "probe": { "port": 80, "novel": 3 } }],
        } });
        let before = json!({ "metadata": { "name": "a" }, "spec": {
            "containers": [{ "name": "app", "probe": { "port": 80 } }],
        } });
        let after = json!({ "metadata": { "name": "a", "annotations": { "x": "y" } }, "spec": {
            "containers": [{ "name": "proxy" }, { "name": "app", "probe": { "port": 15901 } }],
            "volumes": [{ "name": "token" }],
        } });
        let wanted = json!({
            "metadata": { "name": "a", "creationTimestamp": null, "annotations": { "x": "y" } },
            "spec": {
                "novel": 1,
                "containers": [
                    { "name": "proxy" },
                    { "name": "app", "novel": 2, "probe": { "port": 15901, "novel": 3 } },
                ],
                "volumes": [{ "name": "token" }],
            },
        });
        assert_eq!(patched(&sent, &before, &after), wanted);
    }

    #[test]
    fn what_is_taken_away_goes() {
        let before = json!({ "probe": { "tcpSocket": { "port": 1 } }, "args": ["a", "b"] });
        let after = json!({ "probe": { "httpGet": { "port": 2 } }, "args": ["b"] });
        assert_eq!(patched(&before, &before, &after), after);
        assert!(between(&before, &before, &before).0.is_empty());
    }
}
