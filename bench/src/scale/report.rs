//! The figures, and what they should be.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Options, board::Times, controller::Usage, phases::Seen, provider::Kind};

/// What is to be reached.
#[derive(Args)]
pub(super) struct Targets {
    /// Target: milliseconds from a change to its last subscriber, 99 of 100 changes.
    #[arg(long, default_value_t = 250.0, value_name = "MS")]
    target_p99: f64,
    /// Target: KB of the controller's memory for a connected sidecar.
    #[arg(long, default_value_t = 60.0, value_name = "KB")]
    target_sidecar: f64,
    /// Target, and bound where this machine allows one: MB of the controller's memory.
    #[arg(long, default_value_t = 512, value_name = "MB")]
    target_memory: u64,
    /// Target: seconds until all sidecars are served after every connection was cut.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    target_storm: f64,
    /// Target: how many times as much CPU a change may take when there are more services that nobody uses.
    #[arg(long, default_value_t = 1.5, value_name = "FACTOR")]
    target_growth: f64,
}

/// Everything measured.
#[derive(Serialize)]
pub(super) struct Figures {
    /// Where the controller found the mesh.
    pub(super) provider: Kind,
    /// Seconds from the controller's start until it serves.
    pub(super) loaded_s: f64,
    pub(super) memory: Memory,
    /// All sidecars connect for the first time, at once.
    pub(super) arrival: Serving,
    /// CPU seconds in a second without changes.
    pub(super) idle_cpu: f64,
    pub(super) churn: Churn,
    /// All connections are cut at once.
    pub(super) storm: Serving,
    /// The controller is killed and another one started in its place.
    pub(super) restart: Serving,
    /// The same changes with more services that nobody uses.
    pub(super) grown: Option<Churn>,
}

/// Resident memory of the controller, in bytes.
#[derive(Serialize)]
pub(super) struct Memory {
    /// With the mesh, without sidecars.
    alone: u64,
    /// With all sidecars connected.
    connected: u64,
    per_sidecar: u64,
    /// The most, before services were added.
    peak: u64,
    /// A control group held it to the target.
    bounded: bool,
}

impl Memory {
    pub(super) fn new(alone: Usage, connected: Usage, last: Usage, sidecars: usize, bounded: bool) -> Self {
        let more = connected.memory.saturating_sub(alone.memory);
        Self {
            alone: alone.memory,
            connected: connected.memory,
            per_sidecar: more / sidecars.max(1) as u64,
            peak: last.peak,
            bounded,
        }
    }
}

/// All sidecars being served.
#[derive(Serialize)]
pub(super) struct Serving {
    /// Until the last one has all it asked for.
    seconds: f64,
    /// Of the controller.
    cpu_s: f64,
    /// Streams and handshakes that the controller refused, or that failed.
    refused: f64,
    /// Connections that failed as the sidecars saw it.
    failures: u64,
    resources: u64,
    /// Resources that their sidecar had told it has.
    resent: u64,
    /// On the wire, both ways, with TLS.
    bytes: u64,
    last_failure: Option<String>,
}

impl Serving {
    pub(super) fn new(took: Duration, cpu_s: f64, seen: &Seen, last_failure: Option<String>) -> Self {
        Self {
            seconds: took.as_secs_f64(),
            cpu_s,
            refused: seen.refused,
            failures: seen.failures,
            resources: seen.resources,
            resent: seen.resent,
            bytes: seen.bytes,
            last_failure,
        }
    }
}

/// Changes of endpoints.
#[derive(Serialize)]
pub(super) struct Churn {
    changes: usize,
    /// Changes that had not reached everybody a minute after the last.
    lost: usize,
    seconds: f64,
    /// Of the controller.
    cpu_s: f64,
    cpu_ms_per_change: f64,
    resources: u64,
    resent: u64,
    failures: u64,
    bytes: u64,
    /// Milliseconds from the change to the last of its subscribers.
    to_last_ms: Quantiles,
    /// Milliseconds from the change to each of its subscribers.
    to_each_ms: Quantiles,
}

#[derive(Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    fn of(micros: &Histogram<u64>) -> Self {
        let millis = |micros: u64| micros as f64 / 1000.0;
        Self {
            p50: millis(micros.value_at_quantile(0.5)),
            p99: millis(micros.value_at_quantile(0.99)),
            max: millis(micros.max()),
        }
    }
}

impl Churn {
    pub(super) fn new(
        (changes, lost, seconds): (usize, usize, f64),
        cpu_s: f64,
        seen: &Seen,
        times: &Times,
    ) -> Self {
        Self {
            changes,
            lost,
            seconds,
            cpu_s,
            cpu_ms_per_change: cpu_s * 1000.0 / changes.max(1) as f64,
            resources: seen.resources,
            resent: seen.resent,
            failures: seen.failures,
            bytes: seen.bytes,
            to_last_ms: Quantiles::of(&times.to_last),
            to_each_ms: Quantiles::of(&times.to_each),
        }
    }

    fn missed(&self, what: &str, p99: f64, missed: &mut Vec<String>) {
        if self.lost > 0 || self.changes == 0 {
            missed.push(format!(
                "{what}: {} of {} changes did not arrive",
                self.lost, self.changes
            ));
        }
        if self.failures > 0 {
            missed.push(format!("{what}: {} connections failed", self.failures));
        }
        if self.resent > 0 {
            missed.push(format!("{what}: {} resources were sent twice", self.resent));
        }
        if self.to_last_ms.p99 > p99 {
            missed.push(format!(
                "{what}: p99 {:.0} ms, the target is {p99:.0} ms",
                self.to_last_ms.p99
            ));
        }
    }
}

impl Targets {
    pub(super) fn memory_bytes(&self) -> u64 {
        self.target_memory << 20
    }

    /// What was not reached, in words.
    pub(super) fn missed(&self, figures: &Figures) -> Vec<String> {
        let mut missed = Vec::new();
        figures.churn.missed("changes", self.target_p99, &mut missed);
        if let Some(grown) = &figures.grown {
            grown.missed("changes among more services", self.target_p99, &mut missed);
            let factor = grown.cpu_ms_per_change / figures.churn.cpu_ms_per_change;
            if factor > self.target_growth {
                missed.push(format!(
                    "a change costs {factor:.1} times as much among more services"
                ));
            }
        }
        let kib = figures.memory.per_sidecar as f64 / 1024.0;
        if kib > self.target_sidecar {
            missed.push(format!(
                "{kib:.0} KB of memory for a sidecar, the target is {} KB",
                self.target_sidecar
            ));
        }
        if figures.memory.peak > self.memory_bytes() {
            let peak = figures.memory.peak >> 20;
            missed.push(format!(
                "{peak} MB of memory, the target is {} MB",
                self.target_memory
            ));
        }
        for (what, serving) in figures.servings() {
            if serving.seconds > self.target_storm {
                missed.push(format!(
                    "{what}: {:.1} s, the target is {} s",
                    serving.seconds, self.target_storm
                ));
            }
            // While there is no controller, connections fail.
            let failed = if what == RESTART { 0 } else { serving.failures };
            if serving.refused > 0.0 || failed > 0 {
                missed.push(format!("{what}: {} refused, {failed} failed", serving.refused));
            }
            if serving.resent > 0 {
                missed.push(format!("{what}: {} resources were sent again", serving.resent));
            }
        }
        missed
    }
}

/// What OSM's maintainers and users tell of it.
const OSM: &str = "\
OSM, for comparison: 1 MB of memory and a full rebuild of all proxies for each pod; changes batched for 2 to 10 s;
25 s per update at 200 to 400 pods; dead at 600 to 700.";

const RESTART: &str = "restart";

impl Figures {
    fn servings(&self) -> [(&'static str, &Serving); 3] {
        [
            ("arrival", &self.arrival),
            ("storm", &self.storm),
            (RESTART, &self.restart),
        ]
    }

    /// For people.
    pub(super) fn table(&self, options: &Options) -> String {
        let mut text = format!(
            "{} sidecars, {} services of {} endpoints, each sidecar uses {}; {} changes/s\n",
            options.sidecars, options.services, options.endpoints, options.uses, options.changes
        );
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let memory = &self.memory;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "memory      {:.0} MB alone, {:.0} MB connected, {:.1} KB a sidecar, {:.0} MB at most ({})",
            mib(memory.alone),
            mib(memory.connected),
            memory.per_sidecar as f64 / 1024.0,
            mib(memory.peak),
            if memory.bounded { "bounded" } else { "not bounded" },
        );
        let _ = writeln!(
            text,
            "start       {:.1} s until the controller serves",
            self.loaded_s
        );
        for (name, serving) in self.servings() {
            let _ = writeln!(
                text,
                "{name:<11} {:.1} s until all are served, CPU {:.1} s; {} refused, {} failed; \
                 {} resources ({} again), {:.1} MB",
                serving.seconds,
                serving.cpu_s,
                serving.refused,
                serving.failures,
                serving.resources,
                serving.resent,
                mib(serving.bytes),
            );
            if let Some(failure) = &serving.last_failure {
                let _ = writeln!(text, "            last failure: {failure}");
            }
        }
        let _ = writeln!(text, "idle        CPU {:.1} ms a second", self.idle_cpu * 1000.0);
        let grown = format!("{}x services", options.growth);
        let churns = [
            Some(("changes", &self.churn)),
            self.grown.as_ref().map(|churn| (&*grown, churn)),
        ];
        for (name, churn) in churns.into_iter().flatten() {
            let _ = writeln!(
                text,
                "{name:<11} {} in {:.0} s ({} lost): CPU {:.1} s, {:.2} ms each; {} resources ({} again), {:.1} MB",
                churn.changes,
                churn.seconds,
                churn.lost,
                churn.cpu_s,
                churn.cpu_ms_per_change,
                churn.resources,
                churn.resent,
                mib(churn.bytes),
            );
            for (name, quantiles) in [("last", &churn.to_last_ms), ("each", &churn.to_each_ms)] {
                let Quantiles { p50, p99, max } = quantiles;
                let _ = writeln!(
                    text,
                    "            to {name} subscriber: p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"
                );
            }
        }
        text.push_str(OSM);
        text
    }
}
