//! What Envoy takes in a bootstrap and the subset has not: a single item for a list becomes a list, and fields
//! are left out and told, those known to be harmless always, all others with `--allow-unknown-static-fields`.

use prost_reflect::{Kind, MessageDescriptor};
use serde_json::Value;

/// Fields that say how Envoy itself is to run, not what it serves.
const HARMLESS: [(&str, &[&str]); 6] = [
    (
        "envoy.config.bootstrap.v3.Bootstrap",
        &[
            "application_log_config",
            "bootstrap_extensions",
            "cluster_manager",
            "default_regex_engine",
            "default_socket_interface",
            "deferred_stat_options",
            "dns_resolution_config",
            "enable_dispatcher_stats",
            "fatal_actions",
            "flags_path",
            "grpc_async_client_manager_config",
            "hds_config",
            "header_prefix",
            "inline_headers",
            "layered_runtime",
            "listener_manager",
            "memory_allocator_manager",
            "node_context_params",
            "overload_manager",
            "perf_tracing_file_path",
            "stats_config",
            "stats_flush_interval",
            "stats_flush_on_admin",
            "stats_server_version_override",
            "stats_sinks",
            "tracing",
            "typed_dns_resolver_config",
            "use_tcp_for_dns_lookups",
            "watchdog",
            "watchdogs",
            "xds_config_tracker_extension",
            "xds_delegate_extension",
        ],
    ),
    (
        "envoy.config.bootstrap.v3.Admin",
        &[
            "access_log_path",
            "allow_paths",
            "ignore_global_conn_limit",
            "profile_path",
            "socket_options",
        ],
    ),
    (
        "envoy.config.core.v3.Node",
        &[
            "extensions",
            "listening_addresses",
            "user_agent_build_version",
            "dynamic_parameters",
        ],
    ),
    (
        "envoy.config.core.v3.ApiConfigSource",
        &[
            "rate_limit_settings",
            "refresh_delay",
            "request_timeout",
            "config_validators",
        ],
    ),
    (
        "envoy.config.core.v3.GrpcService.EnvoyGrpc",
        &["retry_policy", "max_receive_message_length", "skip_envoy_headers"],
    ),
    (
        "envoy.config.cluster.v3.Cluster",
        &[
            "dns_failure_refresh_rate",
            "dns_jitter",
            "ignore_health_on_host_removal",
            "preconnect_policy",
            "track_cluster_stats",
            "track_timeout_budgets",
            "wait_for_warm_on_init",
        ],
    ),
];

/// Takes out of `value` what is outside the subset and may be left out. Gives the paths.
pub(super) fn remove(message: &MessageDescriptor, value: &mut Value, all: bool) -> Vec<String> {
    let mut taken = Taken {
        all,
        paths: Vec::new(),
    };
    taken.visit(message, value, "");
    taken.paths
}

struct Taken {
    all: bool,
    paths: Vec<String>,
}

impl Taken {
    fn visit(&mut self, message: &MessageDescriptor, value: &mut Value, path: &str) {
        let Value::Object(fields) = value else {
            return;
        };
        if message.full_name() == "google.protobuf.Any" {
            let url = fields.get("@type").and_then(Value::as_str);
            let name = url.and_then(|url| url.rsplit('/').next()).unwrap_or_default();
            let Some(inner) = message.parent_pool().get_message_by_name(name) else {
                return;
            };
            if !well_known(&inner) {
                self.fields(&inner, fields, path);
            }
        } else if !well_known(message) {
            self.fields(message, fields, path);
        }
    }

    fn fields(
        &mut self,
        message: &MessageDescriptor,
        fields: &mut serde_json::Map<String, Value>,
        path: &str,
    ) {
        fields.retain(|key, value| {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let field = message
                .get_field_by_json_name(key)
                .or_else(|| message.get_field_by_name(key));
            match field.map(|field| (field.is_map(), field.is_list(), field.kind())) {
                Some((true, _, Kind::Message(entry))) => {
                    if let (Kind::Message(inner), Value::Object(items)) =
                        (entry.map_entry_value_field().kind(), value)
                    {
                        for (key, item) in items {
                            self.visit(&inner, item, &format!("{path}[{key:?}]"));
                        }
                    }
                    true
                }
                Some((_, true, Kind::Message(inner))) => {
                    // Envoy takes a single item for a list of one, and Consul writes such.
                    if value.is_object() {
                        *value = Value::Array(vec![value.take()]);
                    }
                    for (index, item) in value.as_array_mut().into_iter().flatten().enumerate() {
                        self.visit(&inner, item, &format!("{path}[{index}]"));
                    }
                    true
                }
                Some((_, _, Kind::Message(inner))) => {
                    self.visit(&inner, value, &path);
                    true
                }
                Some(_) => true,
                None => self.keep_unknown(message.full_name(), key, path),
            }
        });
    }

    /// Whether an unknown field stays, to be refused.
    fn keep_unknown(&mut self, message: &str, key: &str, path: String) -> bool {
        // The marks of an `Any` are no fields.
        if key == "@type" {
            return true;
        }
        let harmless = HARMLESS
            .iter()
            .any(|(name, fields)| *name == message && fields.contains(&snake(key).as_str()));
        if harmless || self.all {
            self.paths.push(path);
            return false;
        }
        true
    }
}

fn well_known(message: &MessageDescriptor) -> bool {
    message.full_name().starts_with("google.protobuf.")
}

/// `camelCase` → `snake_case`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
