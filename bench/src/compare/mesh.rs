//! What a sidecar takes for the size of the mesh, under a real control plane, once for each size.

use std::{collections::BTreeMap, path::Path, thread};

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, unshare};
use weir_testbed::Sandbox;

use super::{
    make::Make,
    measure::{Measured, Metric},
    report::Outcomes,
    scenarios::{Load, Scenario},
    ways::Way,
};
use crate::{
    ondemand::{self, Memory},
    pin::{self, Cores},
};

const MIB: f64 = 1_048_576.0;

/// Measures the sizes that are among the scenarios, on the ways that a control plane can feed: `weir` and `envoy`.
///
/// # Errors
/// When a mesh does not start.
pub(crate) fn run(
    outcomes: &mut Outcomes,
    controller: Option<&Path>,
    ways: &[Way],
    scenarios: &[&'static Scenario],
    sandbox: Sandbox,
    cores: Cores,
) -> anyhow::Result<()> {
    let (names, makes): (Vec<_>, Vec<_>) = ways.iter().filter_map(fed).unzip();
    let sizes: Vec<_> = scenarios.iter().filter_map(|scenario| size(scenario)).collect();
    if makes.is_empty() || sizes.is_empty() {
        return Ok(());
    }
    let measure = || -> anyhow::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network for the mesh")?;
        pin::this_thread(cores.load);
        ondemand::set_up_network()?;
        for (scenario, services) in sizes {
            eprintln!("{scenario}");

            let memories = ondemand::size(services, controller, &makes, sandbox, cores)
                .with_context(|| format!("in {scenario}"))?;
            for (way, memory) in names.iter().zip(memories) {
                let measured = memory.map(|memory| figures(&memory));
                outcomes.add(0, scenario, way, measured);
            }
        }
        Ok(())
    };
    thread::scope(|scope| scope.spawn(measure).join()).map_err(|_| anyhow!("the mesh's thread panicked"))?
}

fn figures(memory: &Memory) -> Measured {
    Measured {
        figures: BTreeMap::from([
            (Metric::ResidentMib, memory.bytes as f64 / MIB),
            (Metric::LearningMs, memory.cpu_ms),
        ]),
        ..Measured::default()
    }
}

fn fed(way: &Way) -> Option<(String, ondemand::Make)> {
    let make = match (way.name.as_str(), &way.make) {
        ("weir", Some(Make::Weir(program, _))) => ondemand::Make::Weir(program.clone()),
        ("envoy", Some(Make::Envoy(program, _))) => ondemand::Make::Envoy(program.clone()),
        _ => return None,
    };
    Some((way.name.clone(), make))
}

fn size(scenario: &Scenario) -> Option<(&'static str, usize)> {
    match scenario.load {
        Load::Mesh { services } => Some((scenario.name, services)),
        _ => None,
    }
}
