//! `weir-proxy`: the sidecar.

use std::{
    io::IsTerminal, num::NonZeroUsize, process::ExitCode, thread::available_parallelism, time::Duration,
};

use clap::Parser;
use tokio::time::{Instant, interval_at};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};
use weir_proxy::{
    admin::Logging,
    app::App,
    config::{Args, Config, LogFormat, Mode},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// After this the start is mostly over.
const SETTLED: Duration = Duration::from_secs(1);
/// What of the program is not used for so long may go.
const UNUSED: Duration = Duration::from_secs(10);
/// As `sysexits.h` says for bad configuration.
const BAD_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.hot_restart_version {
        println!("disabled");
        return ExitCode::SUCCESS;
    }
    let config = match args.load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("weir-proxy: {error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if config.mode == Mode::Validate {
        println!("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    let logging = log(&config);
    match serve(config, logging) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "stopped");
            ExitCode::FAILURE
        }
    }
}

fn log(config: &Config) -> Logging {
    let (filter, handle) = reload::Layer::new(LevelFilter::from(config.log_level));
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let registry = Registry::default().with(filter);
    match config.log_format {
        LogFormat::Text => registry.with(lines).init(),
        LogFormat::Json => registry.with(lines.json()).init(),
    }
    Logging::new(handle)
}

/// Runs on one thread where there is one core: no locks between threads, no wake-ups across cores.
fn serve(config: Config, logging: Logging) -> anyhow::Result<()> {
    let cores = || available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = config.concurrency.map_or_else(cores, NonZeroUsize::get);
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder.worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        tokio::spawn(give_back());
        App::new(config).with_logging(logging).run().await
    })?;
    runtime.shutdown_background();
    Ok(())
}

/// Gives back what of the program only the start needed, and from then on what was not used for long.
async fn give_back() {
    let mut due = interval_at(Instant::now() + SETTLED, UNUSED);
    loop {
        due.tick().await;
        match weir_pages::give_back() {
            Ok(octets) => tracing::debug!(octets, "gave back what of the program may not be needed any more"),
            Err(error) => {
                tracing::info!(%error, "all that was used of the program stays in memory");
                return;
            }
        }
    }
}
