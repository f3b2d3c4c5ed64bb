//! The figures, and what they should be.

use std::time::Duration;

use serde::Serialize;

use super::Options;

const MIB: f64 = 1_048_576.0;

/// What was measured.
#[derive(Default, Serialize)]
pub(super) struct Figures {
    /// In the small mesh, and in the large one.
    pub(super) weir: Vec<Memory>,
    /// The same, of Envoy; empty: there is none.
    pub(super) envoy: Vec<Memory>,
    pub(super) firsts: Firsts,
}

/// A sidecar with its services in use.
#[derive(Serialize)]
pub(crate) struct Memory {
    /// Services in the mesh.
    pub(crate) services: usize,
    /// Listeners that the sidecar shows in its dump; 0 when it shows none.
    pub(super) listeners: usize,
    /// Resident.
    pub(crate) bytes: u64,
    /// CPU time from its start until all was in use, milliseconds.
    pub(crate) cpu_ms: f64,
}

/// Milliseconds of the first connection to each service, and of the next.
#[derive(Default, Serialize)]
pub(super) struct Firsts {
    first: Vec<f64>,
    next: Vec<f64>,
}

impl Firsts {
    pub(super) fn add(&mut self, first: Duration, next: Duration) {
        self.first.push(first.as_secs_f64() * 1e3);
        self.next.push(next.as_secs_f64() * 1e3);
    }

    pub(super) fn len(&self) -> usize {
        self.first.len()
    }

    /// What the first one of each service took over the next.
    fn added(&self) -> Vec<f64> {
        let pairs = self.first.iter().zip(&self.next);
        pairs.map(|(first, next)| first - next).collect()
    }
}

/// The value that so many of 100 are not above.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// What the large mesh costs over the small one, in MiB.
fn growth(memory: &[Memory]) -> Option<f64> {
    let (first, last) = (memory.first()?, memory.last()?);
    Some(mib(last.bytes) - mib(first.bytes))
}

impl Figures {
    /// A table for people.
    pub(super) fn table(&self, options: &Options) -> String {
        let mut lines = vec![format!(
            "{} services in use, of         {:>9} {:>9} {:>9}",
            options.uses, options.uses, options.services, "growth"
        )];
        for (name, memory) in [("weir-proxy", &self.weir), ("envoy", &self.envoy)] {
            let Some(growth) = growth(memory) else { continue };
            let cells = |cell: &dyn Fn(&Memory) -> String| -> String {
                memory
                    .iter()
                    .map(|memory| format!(" {:>9}", cell(memory)))
                    .collect()
            };
            let resident = cells(&|memory| format!("{:.2}", mib(memory.bytes)));
            lines.push(format!("{name:<10} resident, MiB     {resident} {growth:>9.2}"));
            if memory.iter().all(|memory| memory.listeners == 0) {
                continue;
            }
            let listeners = cells(&|memory| memory.listeners.to_string());
            lines.push(format!("{name:<10} listeners         {listeners}"));
        }
        lines.push(format!(
            "milliseconds of {:>4} connections     p50       p90       p99       max",
            self.firsts.len()
        ));
        let added = self.firsts.added();
        for (name, values) in [
            ("first", &self.firsts.first),
            ("next", &self.firsts.next),
            ("added by the first", &added),
        ] {
            let cells = [50, 90, 99, 100].map(|percent| format!(" {:>9.2}", percentile(values, percent)));
            lines.push(format!("{name:<29}{}", cells.concat()));
        }
        lines.join("\n")
    }

    /// The targets that were missed.
    pub(super) fn missed(&self, options: &Options) -> Vec<String> {
        let mut missed = Vec::new();
        let growth = growth(&self.weir).unwrap_or(f64::NAN);
        if growth.is_nan() || growth > options.max_growth {
            missed.push(format!(
                "the large mesh costs {growth:.2} MiB, not at most {}",
                options.max_growth
            ));
        }
        let added = percentile(&self.firsts.added(), 99);
        if added.is_nan() || added > options.max_added {
            missed.push(format!(
                "a first connection takes {added:.2} ms more for 99 of 100, not at most {}",
                options.max_added
            ));
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50), 50.0);
        assert_eq!(percentile(&values, 99), 99.0);
        assert_eq!(percentile(&values, 100), 100.0);
        assert!(percentile(&[], 50).is_nan());
    }
}
