//! The log level, changed while the proxy runs.

use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, reload};

/// Names of levels, from silence to everything.
pub(super) const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The level that is in force, and the way to another.
#[derive(Clone)]
pub struct Logging {
    current: Arc<dyn Fn() -> Option<LevelFilter> + Send + Sync>,
    change: Arc<dyn Fn(LevelFilter) -> Result<(), String> + Send + Sync>,
}

/// No level of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no log level {0:?}: use one of off, error, warn, info, debug, trace")]
pub struct UnknownLevel(pub String);

impl Logging {
    /// From the handle of the reloadable filter.
    pub fn new(handle: reload::Handle<LevelFilter, Registry>) -> Self {
        let reader = handle.clone();
        Self {
            current: Arc::new(move || reader.clone_current()),
            change: Arc::new(move |level| handle.reload(level).map_err(|error| error.to_string())),
        }
    }

    /// Lowest level logged; `None` when the subscriber is gone.
    pub fn current(&self) -> Option<LevelFilter> {
        (self.current)()
    }

    /// Changes the lowest level logged.
    ///
    /// # Errors
    /// When the subscriber is gone.
    pub fn change(&self, level: LevelFilter) -> Result<(), String> {
        (self.change)(level)
    }
}

/// A level by name, Envoy's names included.
pub(super) fn parse(name: &str) -> Result<LevelFilter, UnknownLevel> {
    match name.to_ascii_lowercase().as_str() {
        "off" => Ok(LevelFilter::OFF),
        "error" | "critical" => Ok(LevelFilter::ERROR),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err(UnknownLevel(name.to_owned())),
    }
}
