//! What is logged, and how; the level follows MeshConfig while the controller runs.

use std::{io::IsTerminal as _, sync::Arc};

use anyhow::Context as _;
use parking_lot::Mutex;
use tracing::{info, warn};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, filter::ParseError, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::config::LogFormat;

/// The log's level, changed live.
#[derive(Clone)]
pub struct Logging {
    handle: reload::Handle<EnvFilter, Registry>,
    /// What the command line says: it holds as long as MeshConfig says nothing.
    directives: Arc<str>,
    followed: Arc<Mutex<Option<String>>>,
}

impl Logging {
    /// Starts logging to the standard error stream.
    ///
    /// # Errors
    /// When the directives are not understood, or logging has started already.
    pub fn start(directives: &str, format: LogFormat) -> anyhow::Result<Self> {
        let filter = filter(directives)
            .with_context(|| format!("--log-level {directives:?} is neither a level nor directives"))?;
        let (filter, handle) = reload::Layer::new(filter);
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        let lines = match format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()?;
        Ok(Self {
            handle,
            directives: directives.into(),
            followed: Arc::default(),
        })
    }

    /// Logs what MeshConfig's `observability.osmLogLevel` asks for; `None`: what the command line does.
    pub fn follow(&self, osm_level: Option<&str>) {
        let mut followed = self.followed.lock();
        if followed.as_deref() == osm_level {
            return;
        }
        *followed = osm_level.map(str::to_owned);
        let directives = osm_level.and_then(directives).unwrap_or(&self.directives);
        let changed = filter(directives)
            .map_err(|error| error.to_string())
            .and_then(|filter| self.handle.reload(filter).map_err(|error| error.to_string()));
        match changed {
            Ok(()) => info!(level = directives, "what is logged has changed"),
            Err(error) => warn!(%error, "what is logged stays as it is"),
        }
    }
}

/// What is logged. Every failed request would be an error of the client's; whoever asked says it once, and with what
/// follows from it. Directives that name the client come later and count.
fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("kube_client=off,kube_runtime=off,{directives}"))
}

/// The level of a name of OSM's.
fn directives(osm_level: &str) -> Option<&'static str> {
    Some(match osm_level {
        "trace" => "info,weir_controller=trace",
        "debug" => "info,weir_controller=debug",
        "info" => "info",
        "warn" => "warn",
        "error" | "fatal" | "panic" => "error",
        "disabled" => "off",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_osm_are_understood_and_others_left() {
        for level in [
            "trace", "debug", "info", "warn", "error", "fatal", "panic", "disabled",
        ] {
            assert!(filter(directives(level).unwrap()).is_ok());
        }
        assert_eq!(directives("loud"), None);
    }
}
