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
    #[serde(skip)]
    pub(crate) ways: Vec<String>,
    #[serde(skip)]
    pub(crate) scenarios: Vec<&'static Scenario>,
}

impl Report {
    /// Summarizes; ways and scenarios are in the order of the table.
    pub(crate) fn new(
        machine: Machine,
        records: Vec<Record>,
        ways: Vec<String>,
        scenarios: &[&'static Scenario],
    ) -> Self {
        let base = ["envoy", "direct"]
            .into_iter()
            .find(|base| ways.iter().any(|way| way == base));
        let base = base.map_or_else(|| ways.first().cloned().unwrap_or_default(), str::to_owned);
        let disturbed = |record: &&Record| record.measured.foreign_percent > quiet::ALLOWED;
        Self {
            summaries: summary::of(&records, &base),
            disturbed: records.iter().filter(disturbed).count(),
            machine,
            base,
            records,
            ways,
            scenarios: scenarios.to_vec(),
        }
    }
}
