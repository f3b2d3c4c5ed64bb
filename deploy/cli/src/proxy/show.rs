//! The sidecar's pages as tables. Pure. What a page lacks is shown as a dash: the sidecar may be of another version.

use serde_json::Value;

const ABSENT: &str = "-";
const DAY_S: i64 = 86_400;
const HOUR_S: i64 = 3_600;
const MINUTE_S: i64 = 60;

/// Each resource, whether it is in use, and why not.
pub(super) fn config(page: &Value) -> Vec<Vec<String>> {
    let mut rows = vec![row(["KIND", "NAME", "STATE", "VERSION", "UPDATED", "REFUSED"])];
    for section in list(page, "configs") {
        let kind = section.get("@type").and_then(Value::as_str).unwrap_or_default();
        let kind = kind.rsplit('.').next().unwrap_or_default();
        let kind = kind.trim_end_matches("ConfigDump").trim_end_matches('s');
        let groups = section.as_object().into_iter().flatten();
        for entry in groups.filter_map(|(_, value)| value.as_array()).flatten() {
            rows.push(vec![
                kind.to_lowercase(),
                text(entry, "/name"),
                text(entry, "/state"),
                first(entry, "version_info"),
                first(entry, "last_updated"),
                text(entry, "/error_state/details"),
            ]);
        }
    }
    rows
}

/// Each certificate, whose it is, and when it ends.
pub(super) fn certs(page: &Value) -> Vec<Vec<String>> {
    let mut rows = vec![row(["NAME", "USE", "IDENTITY", "ISSUER", "ENDS", "LEFT"])];
    for chain in list(page, "certificates") {
        for (field, purpose) in [("cert_chain", "own"), ("ca_cert", "trusted")] {
            for certificate in list(chain, field) {
                let names = list(certificate, "subject_alt_names").iter();
                let uri = names.filter_map(|name| name.get("uri")).find_map(Value::as_str);
                let identity = uri.map_or_else(|| text(certificate, "/subject"), str::to_owned);
                rows.push(vec![
                    text(chain, "/name"),
                    purpose.to_owned(),
                    identity,
                    text(certificate, "/issuer"),
                    text(certificate, "/expiration_time"),
                    left(
                        certificate
                            .get("seconds_until_expiration")
                            .and_then(Value::as_i64),
                    ),
                ]);
            }
        }
    }
    rows
}

/// Each endpoint, and each cluster without one.
pub(super) fn endpoints(page: &Value) -> Vec<Vec<String>> {
    let mut rows = vec![row([
        "CLUSTER", "STATE", "ENDPOINT", "POD", "IDENTITY", "WEIGHT", "ACTIVE",
    ])];
    for cluster in list(page, "cluster_statuses") {
        let (name, state) = (text(cluster, "/name"), text(cluster, "/state"));
        let hosts = list(cluster, "host_statuses");
        if hosts.is_empty() {
            rows.push(vec![name, state, "no endpoint".to_owned()]);
            continue;
        }
        for host in hosts {
            let address = text(host, "/address/socket_address/address");
            let address = match address.contains(':') {
                true => format!("[{address}]"),
                false => address,
            };
            let pod = match (text(host, "/namespace"), text(host, "/pod")) {
                (namespace, pod) if pod != ABSENT => format!("{namespace}/{pod}"),
                _ => ABSENT.to_owned(),
            };
            rows.push(vec![
                name.clone(),
                state.clone(),
                format!("{address}:{}", text(host, "/address/socket_address/port_value")),
                pod,
                text(host, "/principal"),
                text(host, "/weight"),
                text(host, "/in_flight"),
            ]);
        }
    }
    rows
}

/// A fact on the version in force: listeners have it one level deeper.
fn first(entry: &Value, field: &str) -> String {
    let own = text(entry, &format!("/{field}"));
    if own == ABSENT {
        return text(entry, &format!("/active_state/{field}"));
    }
    own
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value
        .get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A string or a number.
fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => ABSENT.to_owned(),
    }
}

fn left(seconds: Option<i64>) -> String {
    match seconds {
        None => ABSENT.to_owned(),
        Some(0) => "expired".to_owned(),
        Some(seconds) if seconds >= 2 * DAY_S => format!("{} days", seconds / DAY_S),
        Some(seconds) if seconds >= 2 * HOUR_S => format!("{} hours", seconds / HOUR_S),
        Some(seconds) => format!("{} minutes", seconds / MINUTE_S),
    }
}
