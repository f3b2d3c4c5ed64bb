//! What Weir is to reach beside Envoy in the same run.

use super::{
    Report,
    summary::{median, ratios},
};
use crate::compare::{
    measure::Metric,
    scenarios::{Load, Scenario},
};

const WEIR: &str = "weir";
const ENVOY: &str = "envoy";
const DIRECT: &str = "direct";
/// Of the memory that load takes, the part that may still be held some seconds later.
const KEPT: f64 = 0.25;

/// What is compared.
#[derive(Clone, Copy, Debug)]
enum Figure {
    /// The metric as it is.
    Plain(Metric),
    /// What the metric is above that of a direct connection.
    Added(Metric),
}

/// How far.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};
use Figure::{Added, Plain};

const TARGETS: [(&str, Figure, Bound); 14] = [
    ("http1-64", Plain(Metric::Rate), AtLeast(3.5)),
    ("grpc-unary", Plain(Metric::Rate), AtLeast(2.5)),
    ("http1-rate", Plain(Metric::CpuUs), AtMost(0.4)),
    ("http1-rate", Added(Metric::P50Us), AtMost(0.4)),
    ("http1-rate", Added(Metric::P99Us), AtMost(0.6)),
    ("http1-1", Added(Metric::P50Us), AtMost(0.4)),
    ("tcp-stream", Plain(Metric::MegabytesPerSecond), AtLeast(1.2)),
    (
        "tcp-stream-plain",
        Plain(Metric::MegabytesPerSecond),
        AtLeast(1.0),
    ),
    ("tcp-echo", Plain(Metric::Rate), AtLeast(1.6)),
    ("tcp-new", Plain(Metric::Rate), AtLeast(1.7)),
    ("memory", Plain(Metric::IdleMib), AtMost(1.0 / 8.0)),
    ("memory", Plain(Metric::LoadMib), AtMost(1.0 / 4.0)),
    ("mesh-1000", Plain(Metric::ResidentMib), AtMost(1.0 / 15.0)),
    ("start", Plain(Metric::StartMs), AtMost(0.2)),
];

impl Report {
    /// The targets that were missed, of the scenarios that were measured.
    pub(crate) fn missed(&self) -> Vec<String> {
        let named = TARGETS.iter().filter(|target| self.measures(target.0));
        let named = named.filter_map(|(scenario, figure, bound)| self.judge(scenario, *figure, *bound));
        let own = self
            .scenarios
            .iter()
            .filter(|scenario| !has_rate_target(scenario));
        let no_slower = own.filter_map(|scenario| {
            let metric = throughput(scenario)?;
            self.judge(scenario.name, Plain(metric), AtLeast(1.0))
        });
        named.chain(no_slower).chain(self.kept_after_load()).collect()
    }

    fn measures(&self, name: &str) -> bool {
        self.scenarios.iter().any(|scenario| scenario.name == name)
    }

    /// What is wrong, if anything.
    fn judge(&self, scenario: &str, figure: Figure, bound: Bound) -> Option<String> {
        let what = match figure {
            Plain(metric) => format!("{metric:?}"),
            Added(metric) => format!("added {metric:?}"),
        };
        let (weir, envoy) = (
            self.values(scenario, WEIR, figure),
            self.values(scenario, ENVOY, figure),
        );
        let Some(ratio) = median(ratios(&weir, &envoy)) else {
            return Some(format!("{scenario}: {what} was not measured beside envoy"));
        };
        let (missed, bound) = match bound {
            AtLeast(least) => (ratio < least, format!("at least {least:.2}")),
            AtMost(most) => (ratio > most, format!("at most {most:.3}")),
        };
        missed.then(|| format!("{scenario}: {what} is {ratio:.2} of envoy's, not {bound}"))
    }

    /// Values by round.
    fn values(&self, scenario: &str, way: &str, figure: Figure) -> Vec<(usize, f64)> {
        let plain = |way: &str, metric: Metric| -> Vec<(usize, f64)> {
            let records = self.records.iter();
            records
                .filter(|record| record.scenario == scenario && record.way == way)
                .filter_map(|record| Some((record.round, *record.measured.figures.get(&metric)?)))
                .collect()
        };
        match figure {
            Plain(metric) => plain(way, metric),
            Added(metric) => {
                let direct = plain(DIRECT, metric);
                let values = plain(way, metric).into_iter();
                values
                    .filter_map(|(round, value)| {
                        let (_, direct) = direct.iter().find(|(other, _)| *other == round)?;
                        Some((round, value - direct))
                    })
                    .collect()
            }
        }
    }

    fn kept_after_load(&self) -> Option<String> {
        let figures = self.summaries.get("memory")?.get(WEIR)?;
        let of = |metric: Metric| figures.get(&metric).map(|summary| summary.median);
        let (idle, load) = (of(Metric::IdleMib)?, of(Metric::LoadMib)?);
        let kept = of(Metric::AfterMib)? - idle;
        (kept > KEPT * (load - idle)).then(|| {
            format!(
                "memory: {kept:.1} MiB of {:.1} that load took were still held after it",
                load - idle
            )
        })
    }
}

fn has_rate_target(scenario: &Scenario) -> bool {
    TARGETS
        .iter()
        .any(|(name, _, bound)| *name == scenario.name && matches!(bound, AtLeast(_)))
}

/// What of a scenario may not be less than Envoy's.
fn throughput(scenario: &Scenario) -> Option<Metric> {
    match scenario.load {
        Load::Stream => Some(Metric::MegabytesPerSecond),
        Load::Open { .. } | Load::Start | Load::Memory { .. } | Load::Mesh { .. } => None,
        _ => Some(Metric::Rate),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compare::{
        measure::Measured,
        report::{Machine, Outcomes, Record},
        scenarios,
    };

    fn report(scenario: &str, metric: Metric, values: &[(&str, f64)]) -> Report {
        let scenarios = scenarios::chosen(&[scenario.to_owned()]).unwrap();
        let records = values.iter().map(|(way, value)| Record {
            round: 0,
            scenario: scenarios[0].name,
            way: (*way).to_owned(),
            measured: Measured {
                figures: BTreeMap::from([(metric, *value)]),
                ..Measured::default()
            },
        });
        let ways = values.iter().map(|(way, _)| (*way).to_owned()).collect();
        let outcomes = Outcomes {
            records: records.collect(),
            ..Outcomes::default()
        };
        Report::new(Machine::this("cubic"), outcomes, ways, &scenarios)
    }

    #[test]
    fn a_target_is_reached_or_named() {
        let rate = |weir| report("grpc-unary", Metric::Rate, &[("weir", weir), ("envoy", 100.0)]);
        assert!(rate(251.0).missed().is_empty());
        let missed = rate(249.0).missed();
        assert_eq!(missed, ["grpc-unary: Rate is 2.49 of envoy's, not at least 2.50"]);
    }

    #[test]
    fn what_a_sidecar_adds_is_compared() {
        let values = [("direct", 50.0), ("weir", 90.0), ("envoy", 150.0)];
        assert!(
            report("http1-1", Metric::P50Us, &values)
                .missed()
                .iter()
                .all(|missed| !missed.contains("added"))
        );
        let values = [("direct", 50.0), ("weir", 91.0), ("envoy", 150.0)];
        let missed = report("http1-1", Metric::P50Us, &values).missed();
        assert!(
            missed.iter().any(|missed| missed.contains("added P50Us is 0.41")),
            "{missed:?}"
        );
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        let missed = report("tcp-new-plain", Metric::Rate, &[("weir", 5.0)]).missed();
        assert_eq!(missed, ["tcp-new-plain: Rate was not measured beside envoy"]);
    }
}
