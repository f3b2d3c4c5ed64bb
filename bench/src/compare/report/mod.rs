//! Medians over the rounds, and ratios inside a round: on a machine whose speed drifts, only the latter compare.

mod machine;
mod plots;
mod summary;
mod table;
mod targets;

use std::collections::BTreeMap;

use serde::Serialize;

pub(crate) use self::{machine::Machine, summary::Summary};
use super::{
    measure::{Measured, Metric},
    quiet,
    scenarios::Scenario,
};

/// One way in one scenario and round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    /// From 0.
    pub(crate) round: usize,
    pub(crate) scenario: &'static str,
    pub(crate) way: String,
    #[serde(flatten)]
    pub(crate) measured: Measured,
}

/// One way in one scenario and round that did not work.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    /// From 0.
    pub(crate) round: usize,
    pub(crate) scenario: &'static str,
    pub(crate) way: String,
    pub(crate) error: String,
}

/// What came of a run: a way that fails once does not take the rest with it, nor is it forgotten.
#[derive(Default)]
pub(crate) struct Outcomes {
    pub(crate) records: Vec<Record>,
    pub(crate) failures: Vec<Failure>,
}

impl Outcomes {
    /// Takes note of one.
    pub(crate) fn add(
        &mut self,
        round: usize,
        scenario: &'static str,
        way: &str,
        measured: anyhow::Result<Measured>,
    ) {
        let way = way.to_owned();
        match measured {
            Ok(measured) => self.records.push(Record {
                round,
                scenario,
                way,
                measured,
            }),
            Err(error) => {
                eprintln!("{way} failed in {scenario}: {error:#}");
                let error = format!("{error:#}");
                self.failures.push(Failure {
                    round,
                    scenario,
                    way,
                    error,
                });
            }
        }
    }
}

/// Everything measured.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The way that ratios are to.
    pub(crate) base: String,
    /// By scenario, way and metric.
    pub(crate) summaries: BTreeMap<&'static str, BTreeMap<String, BTreeMap<Metric, Summary>>>,
    /// Measurements that other programs disturbed; they count like the others.
    pub(crate) disturbed: usize,
    pub(crate) records: Vec<Record>,
    pub(crate) failures: Vec<Failure>,
    #[serde(skip)]
    pub(crate) ways: Vec<String>,
    #[serde(skip)]
    pub(crate) scenarios: Vec<&'static Scenario>,
}

impl Report {
    /// Summarizes; ways and scenarios are in the order of the table.
    pub(crate) fn new(
        machine: Machine,
        outcomes: Outcomes,
        ways: Vec<String>,
        scenarios: &[&'static Scenario],
    ) -> Self {
        let base = ["envoy", "direct"]
            .into_iter()
            .find(|base| ways.iter().any(|way| way == base));
        let base = base.map_or_else(|| ways.first().cloned().unwrap_or_default(), str::to_owned);
        let Outcomes { records, failures } = outcomes;
        let disturbed = |record: &&Record| record.measured.foreign_percent > quiet::ALLOWED;
        Self {
            summaries: summary::of(&records, &base),
            disturbed: records.iter().filter(disturbed).count(),
            machine,
            base,
            records,
            failures,
            ways,
            scenarios: scenarios.to_vec(),
        }
    }
}
