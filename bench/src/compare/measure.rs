//! One scenario on one way, on fresh processes.

use std::{collections::BTreeMap, sync::Mutex, thread, time::Duration};

use anyhow::bail;
use serde::Serialize;

use super::{
    load::{self, Outcome, Plan},
    quiet::Foreign,
    scenarios::{Load, Scenario},
    ways::{Running, Stage, Way},
};

/// Values of the distribution that are kept, per mille and beyond.
const QUANTILES: [f64; 14] = [
    0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999,
];
/// Connections and caches are warmed before anything counts, for one part in so many of the time.
const WARMING: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const MIB: f64 = 1_048_576.0;

/// What is measured, in the unit of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Requests, or messages, a second.
    Rate,
    /// Bytes of bodies a second, both ways, in MB.
    MegabytesPerSecond,
    /// Median latency, microseconds.
    P50Us,
    /// 99th percentile of latency, microseconds.
    P99Us,
    /// CPU microseconds of the pair for a request.
    CpuUs,
    /// CPU seconds of the pair for a GB.
    CpuSecondsPerGb,
    /// Per cent of a core that the pair was busy: far below 100, the load is the limit and not the pair.
    BusyPercent,
    /// From the start of both sidecars to the first answer, milliseconds.
    StartMs,
    /// Size of its program without what only a debugger reads, MiB.
    ProgramMib,
    /// Memory of a sidecar that serves nothing yet, MiB.
    IdleMib,
    /// The same under load.
    LoadMib,
    /// The same some seconds after load.
    AfterMib,
    /// Memory of a sidecar that has its services in use, MiB.
    ResidentMib,
    /// CPU milliseconds from its start until then.
    LearningMs,
}

/// Figures by metric.
pub(crate) type Figures = BTreeMap<Metric, f64>;

/// One measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Measured {
    pub(crate) figures: Figures,
    /// The distribution of latency: quantile, microseconds.
    pub(crate) latency: Vec<(f64, f64)>,
    /// Per cent of a core that other programs took meanwhile.
    pub(crate) foreign_percent: f64,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// A scenario.
    pub(crate) each: Duration,
    /// Until memory is looked at: before load, and after it.
    pub(crate) settle: (Duration, Duration),
}

/// Measures a scenario.
///
/// # Errors
/// When a request fails or a sidecar ends.
pub(crate) fn run(
    way: &Way,
    scenario: &Scenario,
    stage: &mut Stage,
    times: Times,
) -> anyhow::Result<Measured> {
    let running = way.start(stage, scenario.protocol, scenario.access_log)?;
    let foreign = Foreign::begin(running.cpu()?)?;
    let mut measured = match scenario.load {
        Load::Start => start(&running),
        Load::Memory { .. } => memory(&running, scenario, times)?,
        _ => load(&running, scenario, times.each)?,
    };
    measured.foreign_percent = foreign.end(running.cpu()?)?;
    if scenario.access_log {
        running.check_logs()?;
    }
    Ok(measured)
}

fn start(running: &Running) -> Measured {
    Measured {
        figures: BTreeMap::from([(Metric::StartMs, running.started.as_secs_f64() * 1e3)]),
        ..Measured::default()
    }
}

fn load(running: &Running, scenario: &Scenario, time: Duration) -> anyhow::Result<Measured> {
    let marks = Mutex::new(Vec::new());
    let mark = || {
        // A sidecar that is gone is told by what it no longer answers.
        if let (Ok(mut marks), Ok(cpu)) = (marks.lock(), running.cpu()) {
            marks.push(cpu);
        }
    };
    let plan = Plan {
        warm: time / WARMING,
        time,
        mark: &mark,
    };
    let outcome = running.as_client(|| load::run(running.target, scenario, &plan))?;
    let marks = marks.lock().map(|marks| marks.clone()).unwrap_or_default();
    let [before, after] = marks[..] else {
        bail!("the CPU time of the sidecars could not be read");
    };
    Ok(Measured {
        figures: figures(&outcome, after.saturating_sub(before)),
        latency: distribution(&outcome),
        foreign_percent: 0.0,
    })
}

fn figures(outcome: &Outcome, cpu: Duration) -> Figures {
    let (elapsed, cpu) = (outcome.elapsed.as_secs_f64(), cpu.as_secs_f64());
    let mut figures = BTreeMap::new();
    if outcome.count > 0 {
        let micros = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
        figures.insert(Metric::Rate, outcome.count as f64 / elapsed);
        figures.insert(Metric::P50Us, micros(0.5));
        figures.insert(Metric::P99Us, micros(0.99));
    }
    figures.insert(Metric::MegabytesPerSecond, outcome.bytes as f64 / elapsed / 1e6);
    if cpu > 0.0 {
        if outcome.count > 0 {
            figures.insert(Metric::CpuUs, cpu * 1e6 / outcome.count as f64);
        }
        figures.insert(Metric::CpuSecondsPerGb, cpu / (outcome.bytes as f64 / 1e9));
        figures.insert(Metric::BusyPercent, 100.0 * cpu / elapsed);
    }
    figures
}

fn distribution(outcome: &Outcome) -> Vec<(f64, f64)> {
    let value = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
    match outcome.count {
        0 => Vec::new(),
        _ => QUANTILES
            .iter()
            .map(|quantile| (*quantile, value(*quantile)))
            .collect(),
    }
}

fn memory(running: &Running, scenario: &Scenario, times: Times) -> anyhow::Result<Measured> {
    let mut figures = BTreeMap::new();
    let mut note = |metric, bytes: Option<u64>| {
        if let Some(bytes) = bytes {
            figures.insert(metric, bytes as f64 / MIB);
        }
    };
    note(Metric::ProgramMib, running.program_size()?);
    thread::sleep(times.settle.0);
    note(Metric::IdleMib, running.rss()?);
    note(Metric::LoadMib, most_under_load(running, scenario, times.each)?);
    thread::sleep(times.settle.1);
    note(Metric::AfterMib, running.rss()?);
    Ok(Measured {
        figures,
        ..Measured::default()
    })
}

/// The most memory that is seen while the load is on.
fn most_under_load(running: &Running, scenario: &Scenario, time: Duration) -> anyhow::Result<Option<u64>> {
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let plan = Plan {
                warm: Duration::ZERO,
                time,
                mark: &|| {},
            };
            running.as_client(|| load::run(running.target, scenario, &plan))
        });
        let mut most = None;
        while !busy.is_finished() {
            most = most.max(running.rss()?);
            thread::sleep(LOOK_AGAIN);
        }
        match busy.join() {
            Ok(outcome) => outcome.map(|_| most),
            Err(_) => bail!("the load panicked"),
        }
    })
}
