//! The configuration as Envoy's config dump has it, with what this proxy knows beside: `state` of each resource,
//! and names of those that are awaited or absent.

use http::{StatusCode, request::Parts};
use regex::Regex;
use serde_json::{Map, Value, json};
use weir_xds::ResourceType;

use super::{AdminState, Page, json, query, show::rfc3339, text};
use crate::xds::{Dumped, Owner, Summary};

const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";

/// How one resource type stands in Envoy's config dump.
struct Section {
    kind: ResourceType,
    message: &'static str,
    fixed: (&'static str, &'static str),
    dynamic: (&'static str, &'static str),
    /// The field that holds the resource.
    field: &'static str,
}

const SECTIONS: [Section; 5] = [
    Section {
        kind: ResourceType::Listener,
        message: "ListenersConfigDump",
        fixed: ("static_listeners", "StaticListener"),
        dynamic: ("dynamic_listeners", "DynamicListener"),
        field: "listener",
    },
    Section {
        kind: ResourceType::Route,
        message: "RoutesConfigDump",
        fixed: ("static_route_configs", "StaticRouteConfig"),
        dynamic: ("dynamic_route_configs", "DynamicRouteConfig"),
        field: "route_config",
    },
    Section {
        kind: ResourceType::Cluster,
        message: "ClustersConfigDump",
        fixed: ("static_clusters", "StaticCluster"),
        dynamic: ("dynamic_active_clusters", "DynamicCluster"),
        field: "cluster",
    },
    Section {
        kind: ResourceType::Endpoints,
        message: "EndpointsConfigDump",
        fixed: ("static_endpoint_configs", "StaticEndpointConfig"),
        dynamic: ("dynamic_endpoint_configs", "DynamicEndpointConfig"),
        field: "endpoint_config",
    },
    Section {
        kind: ResourceType::Secret,
        message: "SecretsConfigDump",
        fixed: ("static_secrets", "StaticSecret"),
        dynamic: ("dynamic_active_secrets", "DynamicSecret"),
        field: "secret",
    },
];

/// The whole, or with `?resource=` the entries of one field, or with `?name_regex=` those of certain names.
pub(super) fn page(request: &Parts, state: &AdminState) -> Page {
    let names = match query::expression(request, "name_regex") {
        Ok(names) => names,
        Err(page) => return *page,
    };
    if query::has(request, "mask") {
        return text(StatusCode::BAD_REQUEST, "mask is not supported: leave it out.");
    }
    let dumped = (state.dump)();
    let dumped: Vec<_> = dumped
        .iter()
        .filter(|entry| {
            names
                .as_ref()
                .is_none_or(|names: &Regex| names.is_match(&entry.name))
        })
        .collect();
    match query::parameter(request, "resource").filter(|field| !field.is_empty()) {
        None => json(&whole(&dumped, state)),
        Some(field) => one(&dumped, &field),
    }
}

fn whole(dumped: &[&Dumped], state: &AdminState) -> Value {
    let bootstrap = json!({
        "@type": format!("{ADMIN}BootstrapConfigDump"),
        "bootstrap": (state.bootstrap)(),
    });
    let sections = SECTIONS.iter().map(|section| {
        let mut shown = Map::new();
        shown.insert("@type".to_owned(), format!("{ADMIN}{}", section.message).into());
        let version = (state.version)(section.kind);
        if !version.is_empty() && matches!(section.kind, ResourceType::Listener | ResourceType::Cluster) {
            shown.insert("version_info".to_owned(), version.into());
        }
        shown.insert(section.fixed.0.to_owned(), section.entries(dumped, true).into());
        shown.insert(
            section.dynamic.0.to_owned(),
            section.entries(dumped, false).into(),
        );
        shown.into()
    });
    json!({ "configs": std::iter::once(bootstrap).chain(sections).collect::<Vec<Value>>() })
}

/// Each entry of one field as a config of its own.
fn one(dumped: &[&Dumped], field: &str) -> Page {
    for section in &SECTIONS {
        for (fixed, (name, message)) in [(true, section.fixed), (false, section.dynamic)] {
            if name == field {
                let mut entries = section.entries(dumped, fixed);
                for entry in &mut entries {
                    entry["@type"] = format!("{ADMIN}{}.{message}", section.message).into();
                }
                return json(&json!({ "configs": entries }));
            }
        }
    }
    let known = SECTIONS
        .iter()
        .flat_map(|section| [section.fixed.0, section.dynamic.0]);
    text(
        StatusCode::NOT_FOUND,
        format!(
            "There is no {field:?} here; there are {}.",
            known.collect::<Vec<_>>().join(", ")
        ),
    )
}

impl Section {
    fn entries(&self, dumped: &[&Dumped], fixed: bool) -> Vec<Value> {
        dumped
            .iter()
            .filter(|entry| entry.kind == self.kind && (entry.owner == Owner::Local) == fixed)
            .map(|entry| self.entry(entry))
            .collect()
    }

    fn entry(&self, dumped: &Dumped) -> Value {
        let mut entry = Map::new();
        entry.insert("name".to_owned(), (*dumped.name).into());
        let (state, client_status) = match dumped.state {
            Summary::Pending => ("pending", "REQUESTED"),
            Summary::Absent => ("absent", "DOES_NOT_EXIST"),
            Summary::Ready => ("ready", "ACKED"),
        };
        entry.insert("state".to_owned(), state.into());
        let held = self.held(dumped);
        if dumped.owner == Owner::Local {
            entry.extend(held);
            return entry.into();
        }
        if self.kind == ResourceType::Listener {
            if dumped.state == Summary::Ready {
                entry.insert("active_state".to_owned(), held.into());
            }
        } else {
            entry.extend(held);
        }
        let client_status = dumped.error.as_ref().map_or(client_status, |_| "NACKED");
        entry.insert("client_status".to_owned(), client_status.into());
        if let Some(error) = &dumped.error {
            entry.insert("error_state".to_owned(), json!({ "details": error }));
        }
        entry.into()
    }

    /// The version in force.
    fn held(&self, dumped: &Dumped) -> Map<String, Value> {
        let mut held = Map::new();
        if !dumped.version.is_empty() {
            held.insert("version_info".to_owned(), dumped.version.as_str().into());
        }
        if let Some(updated) = dumped.updated {
            held.insert("last_updated".to_owned(), rfc3339(updated).into());
        }
        if let Some(Value::Object(mut resource)) = dumped.to_json().get_mut("resource").map(Value::take) {
            resource.entry("@type").or_insert_with(|| self.kind.url().into());
            held.insert(self.field.to_owned(), resource.into());
        }
        held
    }
}
