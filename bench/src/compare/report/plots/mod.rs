//! The plots: throughput, CPU, the distribution of latency, memory against the size of the mesh.

mod bars;
mod curves;
mod svg;

use std::{fs, path::Path};

use anyhow::Context as _;

use self::{
    bars::{Bars, Series},
    curves::Curves,
};
use super::{Report, summary::median};
use crate::compare::{
    measure::Metric,
    scenarios::{Load, Scenario},
};

/// The scenario whose distribution is drawn.
const LATENCY: &str = "http1-rate";

impl Report {
    /// Writes those for which something was measured.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn plot(&self, directory: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let plots = [
            ("throughput.svg", self.throughput()),
            ("cpu.svg", self.cpu()),
            ("latency.svg", self.latency()),
            ("memory.svg", self.memory()),
        ];
        for (name, plot) in plots {
            let path = directory.join(name);
            if let Some(plot) = plot {
                fs::write(&path, plot).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn throughput(&self) -> Option<String> {
        self.bars("Throughput, more is better", |scenario| match scenario.load {
            Load::Stream => Some(Metric::MegabytesPerSecond),
            Load::Open { .. } | Load::Start | Load::Memory { .. } | Load::Mesh { .. } => None,
            _ => Some(Metric::Rate),
        })
    }

    fn cpu(&self) -> Option<String> {
        self.bars("CPU of the pair, less is better", |scenario| {
            match scenario.load {
                Load::Stream => Some(Metric::CpuSecondsPerGb),
                Load::Start | Load::Memory { .. } | Load::Mesh { .. } => None,
                _ => Some(Metric::CpuUs),
            }
        })
    }

    /// Ratios to the base, for the scenarios that have the metric.
    fn bars(&self, title: &str, metric: impl Fn(&Scenario) -> Option<Metric>) -> Option<String> {
        let pairs: Vec<_> = self.series().filter(|(way, _)| way != "direct").collect();
        let ratio = |scenario: &Scenario, way: &str| {
            let summary = self.summaries.get(scenario.name)?.get(way)?;
            summary.get(&metric(scenario)?)?.ratio
        };
        let groups: Vec<_> = self
            .scenarios
            .iter()
            .map(|scenario| {
                let values: Vec<_> = pairs.iter().map(|(way, _)| ratio(scenario, way)).collect();
                (scenario.name.to_owned(), values)
            })
            .filter(|(_, values)| values.iter().any(Option::is_some))
            .collect();
        let subtitle = format!(
            "{} = 1; medians of ratios within a round; {}",
            self.base,
            self.where_and_when()
        );
        (!groups.is_empty()).then(|| {
            Bars {
                title,
                subtitle: &subtitle,
                series: &pairs,
                groups: &groups,
            }
            .draw()
        })
    }

    fn latency(&self) -> Option<String> {
        let points: Vec<_> = self.ways.iter().map(|way| self.distribution(way)).collect();
        if points.iter().all(Vec::is_empty) {
            return None;
        }
        let marks = [
            (1.0, "0"),
            (2.0, "p50"),
            (10.0, "p90"),
            (100.0, "p99"),
            (1000.0, "p99.9"),
        ];
        let marks = marks.map(|(at, name)| (at, name.to_owned()));
        let plot = Curves {
            title: "Latency at 1,500 requests a second, from the scheduled time",
            subtitle: &self.where_and_when(),
            x_name: "of all requests",
            y_name: "µs",
            marks: &marks,
            series: &self.series().collect::<Vec<_>>(),
            points: &points,
        };
        Some(plot.draw())
    }

    /// Medians over the rounds; a quantile q is at 1 / (1 - q).
    fn distribution(&self, way: &str) -> Vec<(f64, f64)> {
        let of_way = |record: &&super::Record| record.way == way && record.scenario == LATENCY;
        let rounds: Vec<_> = self.records.iter().filter(of_way).collect();
        let Some(first) = rounds.first() else {
            return Vec::new();
        };
        let quantiles = first.measured.latency.iter().enumerate();
        let shown = quantiles.filter(|(_, (quantile, _))| *quantile > 0.0 && *quantile <= 0.999);
        let point = |(index, (quantile, _)): (usize, &(f64, f64))| {
            let values = rounds
                .iter()
                .filter_map(|record| record.measured.latency.get(index))
                .map(|point| point.1)
                .collect();
            Some((1.0 / (1.0 - quantile), median(values)?))
        };
        shown.filter_map(point).collect()
    }

    fn memory(&self) -> Option<String> {
        let sizes: Vec<_> = self
            .scenarios
            .iter()
            .filter_map(|scenario| match scenario.load {
                Load::Mesh { services } => Some((scenario.name, services)),
                _ => None,
            })
            .collect();
        let points = |way: &String| -> Vec<_> {
            sizes
                .iter()
                .filter_map(|(scenario, services)| {
                    let summary = self.summaries.get(scenario)?.get(way)?;
                    Some((*services as f64, summary.get(&Metric::ResidentMib)?.median))
                })
                .collect()
        };
        let shown: Vec<_> = self.series().filter(|(way, _)| !points(way).is_empty()).collect();
        if shown.is_empty() {
            return None;
        }
        let marks: Vec<_> = sizes
            .iter()
            .map(|(_, services)| (*services as f64, services.to_string()))
            .collect();
        let plot = Curves {
            title: "Memory of a sidecar, ten services in use",
            subtitle: &self.where_and_when(),
            x_name: "services in the mesh, 10 endpoints each",
            y_name: "MiB",
            marks: &marks,
            series: &shown,
            points: &shown.iter().map(|(way, _)| points(way)).collect::<Vec<_>>(),
        };
        Some(plot.draw())
    }

    /// The ways with their colours, the same in every plot.
    fn series(&self) -> impl Iterator<Item = Series> {
        let ways = self.ways.iter().enumerate();
        ways.map(|(index, way)| (way.clone(), svg::colour(index)))
    }

    fn where_and_when(&self) -> String {
        let machine = &self.machine;
        format!("{}, Linux {}, {}", machine.date, machine.kernel, machine.cpu)
    }
}
