//! Medians over the rounds, and ratios inside a round: on a machine whose speed drifts, only the latter compare.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::scenarios::Figures;

/// Everything measured.
#[derive(Serialize)]
pub(crate) struct Report {
    /// The way that ratios are to.
    pub(crate) base: String,
    /// Figures of each round, by way.
    pub(crate) rounds: Vec<Round>,
    /// Medians over the rounds, by way.
    pub(crate) medians: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
    /// Medians of the ratios to the base in the same round, by way.
    pub(crate) ratios: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
    #[serde(skip)]
    order: Vec<&'static str>,
}

/// Figures by way.
pub(crate) type Round = BTreeMap<&'static str, Figures>;
type Column = (&'static str, fn(&Figures) -> Option<f64>, usize);

/// Name, figure, digits after the point.
const COLUMNS: [Column; 10] = [
    ("max req/s", |f| Some(f.max_rate), 0),
    ("p50 us", |f| Some(f.max_p50_us), 0),
    ("cpu us/req", |f| f.max_cpu_us, 1),
    ("1500/s p50 us", |f| Some(f.open_p50_us), 0),
    ("1500/s p99 us", |f| Some(f.open_p99_us), 0),
    ("1500/s cpu us", |f| f.open_cpu_us, 1),
    ("stream MB/s", |f| Some(f.stream_mb), 0),
    ("cpu s/GB", |f| f.stream_cpu_s, 2),
    ("idle MiB", |f| f.rss_idle_mib, 1),
    ("after MiB", |f| f.rss_after_mib, 1),
];

impl Report {
    /// Summarizes rounds; `order` is that of the rows.
    pub(crate) fn new(rounds: Vec<Round>, order: Vec<&'static str>, base: &str) -> Self {
        let mut medians = BTreeMap::new();
        let mut ratios = BTreeMap::new();
        for &name in &order {
            let figure = |round: &Round, column: &Column| (column.1)(round.get(name)?);
            let ratio = |round: &Round, column: &Column| {
                let other = (column.1)(round.get(base)?)?;
                (other > 0.0).then_some(figure(round, column)? / other)
            };
            medians.insert(name, summary(&rounds, figure));
            ratios.insert(name, summary(&rounds, ratio));
        }
        Self {
            base: base.to_owned(),
            rounds,
            medians,
            ratios,
            order,
        }
    }

    /// A table for people.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![format!("{:<10}", "median")];
        let rows = [(&self.medians, ""), (&self.ratios, "x")];
        for (column, _, _) in COLUMNS {
            lines[0].push_str(&format!(" {column:>14}"));
        }
        for (table, unit) in rows {
            if unit == "x" {
                lines.push(format!("ratio to {} in the same round", self.base));
            }
            for name in &self.order {
                let mut line = format!("{name:<10}");
                for (column, _, digits) in COLUMNS {
                    let digits = if unit == "x" { 2 } else { digits };
                    let cell = match table[name].get(column) {
                        Some(value) => format!("{value:.digits$}{unit}"),
                        None => "-".to_owned(),
                    };
                    line.push_str(&format!(" {cell:>14}"));
                }
                lines.push(line);
            }
        }
        lines.join("\n")
    }
}

/// The median of a figure over the rounds, by column.
fn summary(rounds: &[Round], figure: impl Fn(&Round, &Column) -> Option<f64>) -> BTreeMap<&'static str, f64> {
    let cell = |column: &Column| {
        let values = rounds.iter().filter_map(|round| figure(round, column)).collect();
        Some((column.0, median(values)?))
    };
    COLUMNS.iter().filter_map(cell).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_taken_over_the_rounds() {
        let round = |a: f64, b: f64| {
            let figures = |max_rate| Figures {
                max_rate,
                ..Figures::default()
            };
            BTreeMap::from([("a", figures(a)), ("b", figures(b))])
        };
        let rounds = vec![round(10.0, 5.0), round(40.0, 10.0), round(30.0, 10.0)];
        let report = Report::new(rounds, vec!["a", "b"], "b");
        assert_eq!(report.medians["a"]["max req/s"], 30.0);
        assert_eq!(report.ratios["a"]["max req/s"], 3.0);
        assert!(!report.medians["a"].contains_key("idle MiB"));
        assert!(report.table().contains("3.00x"));
    }
}
