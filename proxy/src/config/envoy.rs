//! Envoy's flags that this proxy does not need: taken so that Envoy's command lines work, or refused with a
//! reason where leaving one out would do another thing than was asked.

use std::num::NonZeroU32;

use clap::{ArgAction, ValueEnum};

use super::ConfigError;

/// Flags of Envoy with no effect here.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct EnvoyFlags {
    #[arg(long, hide = true)]
    base_id: Option<u32>,
    #[arg(long, hide = true)]
    base_id_path: Option<String>,
    #[arg(long, hide = true)]
    use_dynamic_base_id: bool,
    #[arg(long, hide = true, default_value_t = 0)]
    restart_epoch: u32,
    #[arg(long, hide = true)]
    disable_hot_restart: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_on_no_parent: bool,
    #[arg(long, hide = true)]
    skip_hot_restart_parent_stats: bool,
    #[arg(long, hide = true)]
    parent_shutdown_time_s: Option<NonZeroU32>,
    #[arg(long, hide = true)]
    socket_path: Option<String>,
    #[arg(long, hide = true)]
    socket_mode: Option<String>,
    #[arg(long, hide = true)]
    drain_strategy: Option<DrainStrategy>,
    #[arg(long, hide = true)]
    local_address_ip_version: Option<IpVersion>,
    #[arg(long, hide = true)]
    cpuset_threads: bool,
    #[arg(long, hide = true)]
    component_log_level: Option<String>,
    #[arg(long, hide = true)]
    log_format_escaped: bool,
    #[arg(long, hide = true)]
    log_stacktrace_single_entry: bool,
    #[arg(long, hide = true)]
    enable_fine_grain_logging: bool,
    #[arg(long, hide = true)]
    skip_deprecated_logs: bool,
    #[arg(long, hide = true)]
    ignore_unknown_dynamic_fields: bool,
    #[arg(long, hide = true)]
    file_flush_interval_msec: Option<u32>,
    #[arg(long, hide = true)]
    file_flush_min_size_kb: Option<u32>,
    #[arg(long, hide = true)]
    enable_mutex_tracing: bool,
    #[arg(long, hide = true)]
    enable_core_dump: bool,
    #[arg(long, hide = true, action = ArgAction::Append)]
    stats_tag: Vec<String>,
    #[arg(long, hide = true)]
    disable_extensions: Option<String>,
    #[arg(long, hide = true)]
    log_path: Option<String>,
    #[arg(long, hide = true)]
    reject_unknown_dynamic_fields: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DrainStrategy {
    Gradual,
    Immediate,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum IpVersion {
    V4,
    V6,
}

impl EnvoyFlags {
    /// Refuses what was asked for and cannot be left out.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refused = |flag, reason| Err(ConfigError::Flag { flag, reason });
        if self.restart_epoch > 0 {
            return refused(
                "--restart-epoch",
                "there is no hot restart: start this proxy anew, its connections drain on SIGTERM",
            );
        }
        if self.log_path.is_some() {
            return refused("--log-path", "the log goes to stderr: redirect that");
        }
        if self.reject_unknown_dynamic_fields {
            return refused(
                "--reject-unknown-dynamic-fields",
                "fields outside the contract are counted and told, and those that matter are refused in any case: \
                 leave the flag out",
            );
        }
        Ok(())
    }

    /// Flags whose loss someone may notice, for the log.
    pub(super) fn without_effect(&self) -> Vec<String> {
        [
            (
                "--component-log-level (one level holds for all)",
                self.component_log_level.is_some(),
            ),
            ("--stats-tag", !self.stats_tag.is_empty()),
            ("--disable-extensions", self.disable_extensions.is_some()),
            ("--enable-mutex-tracing", self.enable_mutex_tracing),
            ("--enable-core-dump", self.enable_core_dump),
            ("--base-id-path", self.base_id_path.is_some()),
        ]
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(flag, _)| flag.to_owned())
        .collect()
    }
}
