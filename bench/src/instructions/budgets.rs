//! What a request may take, from a file.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::Figures;

/// What a figure may be beyond its budget: compilers and libraries differ a little.
const ROOM: f64 = 0.05;

/// The budgets by scenario and figure.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Budgets(BTreeMap<String, BTreeMap<String, f64>>);

impl Budgets {
    /// Reads a file of them: one table for each scenario.
    ///
    /// # Errors
    /// When it is not there or not a file of budgets.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read the budgets in {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a file of budgets", path.display()))
    }

    /// Compares what was measured, and says of each figure that is far from its budget by how much.
    ///
    /// # Errors
    /// When a figure is beyond its budget and the room above it, or has none.
    pub(super) fn check(&self, measured: &BTreeMap<&'static str, Figures>) -> anyhow::Result<()> {
        let mut beyond = Vec::new();
        for (name, figures) in measured {
            let budgets = self.0.get(*name);
            for (what, &is) in figures {
                let Some(&may) = budgets.and_then(|budgets| budgets.get(*what)) else {
                    beyond.push(format!("{name} has no budget of {what}: it takes {is:.1}"));
                    continue;
                };
                let over = is / may - 1.0;
                if over > ROOM {
                    let percent = over * 100.0;
                    beyond.push(format!(
                        "{name}: {is:.1} {what}, {percent:.1} % over the budget of {may}"
                    ));
                } else if over < -ROOM {
                    println!("{name}: {is:.1} {what}: the budget of {may} can be lowered");
                }
            }
        }
        if beyond.is_empty() {
            return Ok(());
        }
        bail!("beyond the budgets:\n{}", beyond.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(instructions: f64) -> anyhow::Result<()> {
        let budgets: Budgets = toml::from_str("[http1]\ninstructions = 1000\nsyscalls = 10\n").unwrap();
        let figures = Figures::from([("instructions", instructions), ("syscalls", 10.4)]);
        budgets.check(&BTreeMap::from([("http1", figures)]))
    }

    #[test]
    fn a_figure_beyond_its_budget_fails_and_says_by_how_much() {
        checked(1049.0).unwrap();
        checked(500.0).unwrap();
        let error = checked(1060.0).unwrap_err().to_string();
        assert!(
            error.contains("http1: 1060.0 instructions, 6.0 % over the budget of 1000"),
            "{error}"
        );
    }

    #[test]
    fn a_scenario_without_a_budget_fails() {
        let budgets: Budgets = toml::from_str("").unwrap();
        let figures = Figures::from([("syscalls", 1.0)]);
        let error = budgets.check(&BTreeMap::from([("grpc", figures)])).unwrap_err();
        assert!(error.to_string().contains("grpc has no budget of syscalls"));
    }

    #[test]
    fn the_budgets_of_the_tree_can_be_read_and_name_every_scenario() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("budgets.toml");
        let budgets = Budgets::read(&path).unwrap();
        for scenario in &super::super::SCENARIOS {
            let budgets = &budgets.0[scenario.name];
            assert!(
                budgets.keys().eq(["instructions", "syscalls"]),
                "{}",
                scenario.name
            );
        }
        for name in super::super::names() {
            assert!(budgets.0.contains_key(name), "{name}");
        }
    }
}
