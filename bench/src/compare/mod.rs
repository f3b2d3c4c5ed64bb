//! The same load on nothing in between, on a pair of weir-proxy and on pairs of other makes, with the same policy.
//!
//! Client and server are pods of a sandbox, each with its sidecar, whose traffic is redirected by weir-init's rules:
//! client → outbound sidecar → mutual TLS → inbound sidecar → server. With two cores or more, load and server have
//! one, the pair another: a rate is what one core does for the pair. Every measurement has fresh pods and processes;
//! ways take turns within a round. Everything lives in namespaces of the sandbox and ends with them.

mod choice;
mod haproxy;
mod load;
mod make;
mod measure;
mod mesh;
mod pods;
mod quiet;
mod report;
mod scenarios;
mod static_pair;
mod ways;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Args;
use weir_testbed::{Pods, Sandbox};

pub(crate) use self::{
    load::{Plan, run as put},
    scenarios::{Scenario, chosen},
};
use self::{
    measure::Times,
    report::{Machine, Outcomes, Report},
    scenarios::Load,
    ways::{Stage, Way},
};
use crate::{
    missed,
    pin::{self, Cores},
};

/// What is asked for on the command line.
#[derive(Args)]
pub(crate) struct Options {
    /// The weir-proxy binary; by default the one that `cargo build --profile shipped -p weir-proxy` makes.
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
    /// The Envoy binary; by default the one on PATH, and none when there is none.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// The HAProxy binary; by default the one on PATH, and none when there is none.
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    /// The weir-controller binary, for the sizes of the mesh; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    controller: Option<PathBuf>,
    /// One more pair: its name and a shell command for each side. They are told by environment variables
    /// (WEIR_BENCH_PROTOCOL, _LISTEN, _NEXT, _CERTIFICATE, _KEY, _ROOT, _CLIENT, _SERVER, _ACCESS_LOG) what to do.
    #[arg(long, num_args = 3, value_names = ["NAME", "OUTBOUND", "INBOUND"])]
    pair: Vec<String>,
    /// Only these ways: direct, weir, weir-h2, envoy, envoy-h1, haproxy, haproxy-h1, the name of a --pair, or forward: a
    /// pair of weir-proxy that takes bytes on without TLS and policy, which tells what two more hops alone take.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAMES",
        default_value = "direct,weir,envoy,haproxy"
    )]
    ways: Vec<String>,
    /// Only these scenarios, each by its name or the part before a dash: http1, grpc, tcp-new, mesh...
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Rounds; each measures every scenario on every way once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds for each scenario.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// One short round: to see that everything works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Congestion control of the pods' connections; Linux has cubic unless a node is set otherwise.
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    congestion: String,
    /// The most seconds to wait, before each measurement, for other programs to be quiet.
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// Fails when a target is missed.
    #[arg(long)]
    check: bool,
    /// Write everything measured to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write plots (SVG) into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
}

/// Measures, prints the table, and compares with the targets where that is asked for.
///
/// # Errors
/// When a way does not work, which is told after all that does was measured and written, or with `--check` a target is
/// missed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let sandbox = Sandbox::enter().context("the comparison needs a network of its own")?;
    let scenarios = chosen(&options.only)?;
    let ways = choice::ways(options, sandbox)?;
    let cores = Cores::choose();
    pin::this_thread(cores.load);
    let mut stage = Stage {
        pods: Pods::start(&sandbox)?,
        sandbox,
        congestion: options.congestion.clone(),
        cores,
    };
    check_policies(&ways, &scenarios, &mut stage)?;
    let mut outcomes = rounds(options, &ways, &scenarios, &mut stage)?;
    mesh::run(
        &mut outcomes,
        options.controller.as_deref(),
        &ways,
        &scenarios,
        sandbox,
        cores,
    )?;
    let names = ways.iter().map(|way| way.name.clone()).collect();
    let report = Report::new(Machine::this(&options.congestion), outcomes, names, &scenarios);
    println!("{}", report.table());
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(directory) = &options.plots {
        report.plot(directory)?;
    }
    let judged = match options.check {
        true => missed::tell(&report.missed(), true),
        false => Ok(()),
    };
    ensure!(
        report.failures.is_empty(),
        "{} measurements failed",
        report.failures.len()
    );
    judged
}

impl Options {
    fn times(&self) -> anyhow::Result<Times> {
        ensure!(self.seconds > 0.0, "--seconds must be positive");
        Ok(match self.quick {
            true => Times {
                each: Duration::from_millis(200),
                settle: (Duration::ZERO, Duration::ZERO),
            },
            false => Times {
                each: Duration::try_from_secs_f64(self.seconds)?,
                settle: (Duration::from_secs(5), Duration::from_secs(12)),
            },
        })
    }
}

fn is_mesh(scenario: &Scenario) -> bool {
    matches!(scenario.load, Load::Mesh { .. })
}

/// Whether there is something to measure.
fn applies(way: &Way, scenario: &Scenario) -> bool {
    let has_enough = way.has_sidecars() || scenario.means_something_without_sidecars();
    has_enough && way.is_of_its_own(scenario.protocol)
}

fn rounds(
    options: &Options,
    ways: &[Way],
    scenarios: &[&'static Scenario],
    stage: &mut Stage,
) -> anyhow::Result<Outcomes> {
    let times = options.times()?;
    let (rounds, patience) = match options.quick {
        true => (1, 0),
        false => (usize::from(options.rounds), options.patience),
    };
    let mut outcomes = Outcomes::default();
    for round in 0..rounds {
        for scenario in scenarios.iter().filter(|scenario| !is_mesh(scenario)) {
            for index in 0..ways.len() {
                let way = &ways[(round + index) % ways.len()];
                if !applies(way, scenario) {
                    continue;
                }
                quiet::wait(Duration::from_secs(patience))?;
                let measured = measure::run(way, scenario, stage, times);
                eprintln!("round {} of {rounds}: {} {}", round + 1, scenario.name, way.name);
                outcomes.add(round, scenario.name, &way.name, measured);
            }
        }
    }
    Ok(outcomes)
}

fn check_policies(ways: &[Way], scenarios: &[&'static Scenario], stage: &mut Stage) -> anyhow::Result<()> {
    let scenarios = scenarios.iter().filter(|scenario| !is_mesh(scenario));
    let mut protocols: Vec<_> = scenarios.map(|scenario| scenario.protocol).collect();
    protocols.sort_unstable();
    protocols.dedup();
    for way in ways {
        for protocol in protocols.iter().filter(|protocol| way.is_of_its_own(**protocol)) {
            way.check_policy(stage, *protocol)
                .with_context(|| format!("the policy of {} for {}", way.name, protocol.name()))?;
        }
    }
    Ok(())
}
