//! The `weir-controller` program: flags, logging, signals; the rest is [`weir_controller::app`].

use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use weir_controller::{app, config::Args, logging::Logging};

// What thousands of handshakes leave is given back, and what stays between it does not keep it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let logging = match Logging::start(&args.log_level, args.log_format) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("weir-controller: {error:#}");
            return ExitCode::from(2);
        }
    };
    match serve(args, logging) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Args, logging: Logging) -> anyhow::Result<()> {
    // The client of the API server takes its cryptography from here; a second call would only find the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone())?);
        app::run(&args, &logging, stop).await
    });
    // What still runs now is blocking work that nobody waits for.
    runtime.shutdown_background();
    result
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("told to stop");
        stop.cancel();
    })
}
