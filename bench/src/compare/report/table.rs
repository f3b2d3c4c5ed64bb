//! One table for people.

use super::{Report, Summary};
use crate::compare::measure::Metric;

/// Heading and digits after the point, in the order of columns.
const COLUMNS: [(Metric, &str, usize); 14] = [
    (Metric::Rate, "requests/s", 0),
    (Metric::MegabytesPerSecond, "MB/s", 0),
    (Metric::P50Us, "p50 us", 0),
    (Metric::P99Us, "p99 us", 0),
    (Metric::CpuUs, "cpu us/request", 1),
    (Metric::CpuSecondsPerGb, "cpu s/GB", 2),
    (Metric::BusyPercent, "busy %", 0),
    (Metric::StartMs, "ms", 0),
    (Metric::ProgramMib, "program MiB", 1),
    (Metric::IdleMib, "idle MiB", 1),
    (Metric::LoadMib, "under load MiB", 1),
    (Metric::AfterMib, "after MiB", 1),
    (Metric::ResidentMib, "resident MiB", 1),
    (Metric::LearningMs, "cpu ms to learn it", 0),
];
const CELL: usize = 32;

impl Report {
    /// For each scenario a line for each way: the median, the least and the most, and the ratio to the base.
    pub(crate) fn table(&self) -> String {
        let machine = &self.machine;
        let mut lines = vec![format!(
            "{}, Linux {}, TCP {}, {}, {} cores; median [least, most], ratio to {} in the same round",
            machine.date, machine.kernel, machine.congestion, machine.cpu, machine.cores, self.base
        )];
        for scenario in &self.scenarios {
            let Some(ways) = self.summaries.get(scenario.name) else {
                continue;
            };
            lines.push(format!("\n{}: {}", scenario.name, scenario.about));
            let has = |metric: Metric| ways.values().any(|figures| figures.contains_key(&metric));
            let columns: Vec<_> = COLUMNS
                .iter()
                .filter(|column| has(column.0) && is_telling(scenario.name, column.0))
                .collect();
            let heads: String = columns
                .iter()
                .map(|(_, head, _)| format!(" {head:>CELL$}"))
                .collect();
            lines.push(format!("{:<12}{heads}", ""));
            for (way, figures) in self.ways.iter().filter_map(|way| Some((way, ways.get(way)?))) {
                let cells: String = columns
                    .iter()
                    .map(|(metric, _, digits)| {
                        let cell = figures.get(metric).map(|summary| cell(summary, *digits));
                        format!(" {:>CELL$}", cell.unwrap_or_else(|| "-".to_owned()))
                    })
                    .collect();
                lines.push(format!("{way:<12}{cells}"));
            }
        }
        if self.disturbed > 0 {
            lines.push(format!(
                "\nother programs disturbed {} of {} measurements; they are counted, and named in the JSON",
                self.disturbed,
                self.records.len()
            ));
        }
        for failure in &self.failures {
            let (way, scenario, round) = (&failure.way, failure.scenario, failure.round + 1);
            lines.push(format!(
                "\nnot measured: {way} failed in {scenario}, round {round}"
            ));
        }
        lines.join("\n")
    }
}

/// Bytes say nothing where requests are small, and requests nothing where there are none.
fn is_telling(scenario: &str, metric: Metric) -> bool {
    let large = ["http1-64k", "http1-1m", "tcp-stream", "tcp-stream-plain"].contains(&scenario);
    match metric {
        Metric::MegabytesPerSecond | Metric::CpuSecondsPerGb => large,
        _ => true,
    }
}

fn cell(summary: &Summary, digits: usize) -> String {
    let Summary {
        median,
        min,
        max,
        ratio,
    } = summary;
    let ratio = ratio.map_or_else(String::new, |ratio| format!(" {ratio:.2}x"));
    format!("{median:.digits$} [{min:.digits$}, {max:.digits$}]{ratio}")
}
