//! `weir-proxy`: the sidecar.

use std::{io::IsTerminal, num::NonZeroUsize, process::ExitCode, thread::available_parallelism};

use clap::Parser;
use tracing::level_filters::LevelFilter;
use weir_proxy::{
    app::App,
    config::{Args, Config, LogFormat, Mode},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As `sysexits.h` says for bad configuration.
const BAD_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let config = match Args::parse().load() {
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
    log(&config);
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}

fn log(config: &Config) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(config.log_level))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Runs on one thread where there is one core: no locks between threads, no wake-ups across cores.
fn serve(config: Config) -> anyhow::Result<()> {
    let cores = || available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = config.concurrency.map_or_else(cores, NonZeroUsize::get);
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder.worker_threads(threads).enable_all().build()?;
    runtime.block_on(async { App::new(config).run().await })?;
    runtime.shutdown_background();
    Ok(())
}
