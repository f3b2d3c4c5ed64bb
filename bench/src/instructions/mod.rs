//! Instructions and system calls that a pair of sidecars takes for a request: a measure that a noisy machine does
//! not change. Both sidecars run under valgrind's callgrind; its counters are read before and after a fixed number of
//! requests, so starting up and warming up do not count. Beside it stand what the start takes, the memory of a pair
//! after a fixed run and the size of the program. Budgets are kept in a file, and a change beyond them fails.

mod budgets;
mod callgrind;
mod load;
mod pair;
mod start;
mod weight;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use clap::Args;

use self::{
    budgets::Budgets,
    load::{Client, Kind},
    pair::Pair,
};
use crate::program;

/// Requests that go before those that are counted: one in so many of these.
const WARMING: u32 = 4;

/// What is asked for on the command line.
#[derive(Args)]
pub(crate) struct Options {
    /// The weir-proxy binary; by default the one that `cargo build --profile shipped -p weir-proxy` makes.
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
    /// Only these scenarios: http1, http1-16, grpc, grpc-16, tcp, tcp-16, connect-16, handshake, start, weight.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Requests that are counted in each scenario.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(64..))]
    requests: u32,
    /// Fails when a figure is beyond its budget.
    #[arg(long)]
    check: bool,
    /// The budgets.
    #[arg(long, value_name = "FILE", default_value = "bench/budgets.toml")]
    budgets: PathBuf,
    /// Write the figures to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep callgrind's profiles in this directory, for callgrind_annotate.
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

/// One way of using the pair.
struct Scenario {
    name: &'static str,
    kind: Kind,
    /// Requests at a time: each on a connection of its own, but for gRPC, where they share one.
    concurrency: u32,
    /// Of the requests asked for, one in so many: some are dear.
    one_in: u32,
}

const fn scenario(name: &'static str, kind: Kind, concurrency: u32, one_in: u32) -> Scenario {
    Scenario {
        name,
        kind,
        concurrency,
        one_in,
    }
}

const SCENARIOS: [Scenario; 8] = [
    scenario("http1", Kind::Http1, 1, 1),
    scenario("http1-16", Kind::Http1, 16, 1),
    scenario("grpc", Kind::Grpc, 1, 1),
    scenario("grpc-16", Kind::Grpc, 16, 1),
    scenario("tcp", Kind::Echo, 1, 1),
    scenario("tcp-16", Kind::Echo, 16, 1),
    scenario("connect-16", Kind::Connect, 16, 4),
    scenario("handshake", Kind::Connect, 1, 20),
];

/// Figures of one scenario by their names.
type Figures = BTreeMap<&'static str, f64>;

/// What is measured beside the scenarios, of a program.
type Measure = fn(&Path) -> anyhow::Result<Figures>;

const BESIDE: [(&str, Measure); 2] = [("start", start::measure), ("weight", weight::measure)];

/// Measures the scenarios, prints the figures, and compares them with the budgets where that is asked for.
///
/// # Errors
/// When a scenario cannot be measured, or a figure is beyond its budget.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let weir = program::shipped_by_weir(options.weir.as_deref(), "weir-proxy")?;
    // Valgrind looks up a name without a directory on PATH.
    let weir = weir.canonicalize()?;
    // Read first, so that a bad file is told before minutes of measuring.
    let budgets = options
        .check
        .then(|| Budgets::read(&options.budgets))
        .transpose()?;
    check_names(&options.only)?;
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let mut measured = BTreeMap::new();
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        let figures = measure(scenario, &weir, options).with_context(|| scenario.name)?;
        print(scenario.name, &figures);
        measured.insert(scenario.name, figures);
    }
    for (name, measure) in BESIDE.iter().filter(|(name, _)| wanted(name)) {
        let figures = measure(&weir).with_context(|| *name)?;
        print(name, &figures);
        measured.insert(name, figures);
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&measured)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    match budgets {
        Some(budgets) => budgets.check(&measured),
        None => Ok(()),
    }
}

fn print(name: &str, figures: &Figures) {
    let figures: Vec<_> = figures
        .iter()
        .map(|(what, is)| format!("{is:>10.1} {what}"))
        .collect();
    println!("{name:<10} {}", figures.join("  "));
}

/// The names of all that is measured.
fn names() -> impl Iterator<Item = &'static str> {
    let scenarios = SCENARIOS.iter().map(|scenario| scenario.name);
    scenarios.chain(BESIDE.iter().map(|(name, _)| *name))
}

fn check_names(only: &[String]) -> anyhow::Result<()> {
    for name in only {
        ensure!(
            names().any(|known| known == name),
            "there is no scenario {name}; see --help"
        );
    }
    Ok(())
}

fn measure(scenario: &Scenario, weir: &Path, options: &Options) -> anyhow::Result<Figures> {
    let requests = (options.requests / scenario.one_in).next_multiple_of(scenario.concurrency);
    let mut pair = Pair::start(weir, scenario.kind, scenario.concurrency, true)?;
    let mut client = Client::connect(pair.target, scenario.kind, scenario.concurrency)?;
    client.send(requests / WARMING)?;
    pair.mark("warm")?;
    client.send(requests)?;
    pair.mark("counted")?;
    if let Some(directory) = &options.keep {
        pair.keep(directory, scenario.name)?;
    }
    pair.figures(requests)
}
