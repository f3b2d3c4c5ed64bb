//! A figure over the rounds.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Record;
use crate::compare::measure::Metric;

/// A figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The median of the ratios to the base in the same round.
    pub(crate) ratio: Option<f64>,
}

/// Summaries of all records, by scenario, way and metric.
pub(crate) fn of(
    records: &[Record],
    base: &str,
) -> BTreeMap<&'static str, BTreeMap<String, BTreeMap<Metric, Summary>>> {
    let mut values: BTreeMap<_, Vec<(usize, f64)>> = BTreeMap::new();
    for record in records {
        for (metric, value) in &record.measured.figures {
            let key = (record.scenario, record.way.as_str(), *metric);
            values.entry(key).or_default().push((record.round, *value));
        }
    }
    let mut summaries: BTreeMap<_, BTreeMap<_, BTreeMap<_, _>>> = BTreeMap::new();
    for ((scenario, way, metric), rounds) in &values {
        let based = values.get(&(*scenario, base, *metric));
        let summary = summarize(rounds, based.map_or(&[], Vec::as_slice));
        let ways = summaries.entry(*scenario).or_default();
        ways.entry((*way).to_owned())
            .or_default()
            .insert(*metric, summary);
    }
    summaries
}

fn summarize(rounds: &[(usize, f64)], base: &[(usize, f64)]) -> Summary {
    let values = || rounds.iter().map(|(_, value)| *value);
    Summary {
        median: median(values().collect()).unwrap_or(f64::NAN),
        min: values().fold(f64::INFINITY, f64::min),
        max: values().fold(f64::NEG_INFINITY, f64::max),
        ratio: median(ratios(rounds, base)),
    }
}

/// Ratios of the values of the same round.
pub(crate) fn ratios(rounds: &[(usize, f64)], base: &[(usize, f64)]) -> Vec<f64> {
    let ratio = |(round, value): &(usize, f64)| {
        let (_, base) = base.iter().find(|(other, _)| other == round)?;
        (*base > 0.0).then_some(value / base)
    };
    rounds.iter().filter_map(ratio).collect()
}

/// The middle value; the mean of the two in the middle of an even number.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
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
    use crate::compare::measure::Measured;

    #[test]
    fn medians_and_ratios_are_taken_over_the_rounds() {
        let record = |round, way: &str, rate| Record {
            round,
            scenario: "s",
            way: way.to_owned(),
            measured: Measured {
                figures: BTreeMap::from([(Metric::Rate, rate)]),
                ..Measured::default()
            },
        };
        let rounds = [(10.0, 5.0), (40.0, 10.0), (30.0, 10.0)];
        let records: Vec<_> = rounds
            .iter()
            .enumerate()
            .flat_map(|(round, (a, b))| [record(round, "a", *a), record(round, "b", *b)])
            .collect();
        let summary = of(&records, "b")["s"]["a"][&Metric::Rate];
        assert_eq!((summary.median, summary.min, summary.max), (30.0, 10.0, 40.0));
        assert_eq!(summary.ratio, Some(3.0));
        assert_eq!(of(&records, "c")["s"]["a"][&Metric::Rate].ratio, None);
    }
}
