//! The bookstore: the demo application, one program that plays every part.
//!
//! A *bookbuyer* and a *bookthief* ask a *bookstore* for books; each sale is reported to the *bookwarehouse*,
//! which keeps its count in a *database* that speaks the MySQL protocol. The parts know nothing of a mesh: they
//! speak plain HTTP and plain MySQL to service names.
//!
//! For tests it also has servers that answer with what they get (*mirror*, *echo*) and clients to be run inside a pod
//! (*fetch*, *tell*, *wait*).

mod buyer;
mod client;
mod database;
mod echo;
mod mirror;
mod mysql;
mod store;
mod warehouse;
mod web;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Plays one part of the bookstore demo.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Buys books, as a customer who is allowed to.
    Bookbuyer(buyer::Args),
    /// Takes books, as someone who should not be.
    Bookthief(buyer::Args),
    /// Sells books and reports each sale to the warehouse.
    Bookstore(store::Args),
    /// Keeps the count of books sold in a database.
    Bookwarehouse(warehouse::Args),
    /// A tiny database that speaks the MySQL protocol and knows the warehouse's three statements.
    Database(database::Args),
    /// Answers every HTTP request with what it got.
    Mirror(mirror::Args),
    /// Gives back what it gets over TCP.
    Echo(echo::Args),
    Fetch(client::Fetch),
    Tell(client::Tell),
    /// Does nothing, for a while or until it is stopped.
    Wait {
        /// Seconds.
        #[arg(long = "for")]
        seconds: Option<u64>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            runtime.block_on(async {
                tokio::select! {
                    outcome = play(args.part) => outcome,
                    outcome = stopped() => outcome,
                }
            })
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn play(part: Part) -> anyhow::Result<()> {
    match part {
        Part::Bookbuyer(args) => buyer::run("bookbuyer", args).await,
        Part::Bookthief(args) => buyer::run("bookthief", args).await,
        Part::Bookstore(args) => store::run(args).await,
        Part::Bookwarehouse(args) => warehouse::run(args).await,
        Part::Database(args) => database::run(args).await,
        Part::Mirror(args) => mirror::run(args).await,
        Part::Echo(args) => echo::run(args).await,
        Part::Fetch(args) => client::fetch(args).await,
        Part::Tell(args) => client::tell(args).await,
        Part::Wait { seconds: None } => std::future::pending().await,
        Part::Wait {
            seconds: Some(seconds),
        } => {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(())
        }
    }
}

/// Kubernetes stops a pod with SIGTERM, a person with SIGINT.
async fn stopped() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        outcome = tokio::signal::ctrl_c() => outcome?,
    }
    Ok(())
}
