//! `weir demo --check --json`.

use anyhow::{Context, ensure};
use serde_json::{Map, Value};

use crate::{
    Outcome,
    programs::{Copies, WEIR},
    run::{self, Ran},
};

pub(crate) const PHASES: [&str; 8] = [
    "permissive",
    "closed",
    "policy",
    "thief",
    "split",
    "database",
    "private",
    "unbroken",
];

fn check(program: impl AsRef<std::path::Path>, more: &[&str]) -> anyhow::Result<Ran> {
    let mut command = run::weir(program);
    command.args(["demo", "--check", "--json"]).args(more);
    run::to_end(command)
}

/// Every line of standard output.
fn objects(ran: &Ran) -> anyhow::Result<Vec<Map<String, Value>>> {
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let object = value.as_object().cloned();
        object.with_context(|| format!("not an object: {line}"))
    };
    ran.stdout.lines().map(object).collect()
}

pub(crate) fn holds() -> Outcome {
    hold(&[], &PHASES)
}

/// With these flags these phases hold, and there are no others.
pub(crate) fn hold(flags: &[&str], names: &[&str]) -> Outcome {
    let ran = check(WEIR, flags)?;
    let objects = objects(&ran)?;
    ensure!(
        ran.status.code() == Some(0),
        "{}\n{}\n{}",
        ran.status,
        ran.stdout,
        ran.stderr
    );
    for event in ["starting", "started"] {
        ensure!(
            objects
                .iter()
                .any(|object| object.get("event") == Some(&event.into())),
            "no event {event} in {objects:?}"
        );
    }
    let phases: Vec<_> = objects
        .iter()
        .filter(|object| object.contains_key("phase"))
        .collect();
    ensure!(phases.len() == names.len(), "there are {} phases", phases.len());
    for ((number, name), phase) in (1..).zip(names.iter().copied()).zip(phases) {
        let is = |key: &str, value: Value| phase.get(key) == Some(&value);
        ensure!(
            is("phase", number.into()) && is("name", name.into()) && is("ok", true.into()),
            "phase {number} is {phase:?}"
        );
        ensure!(
            phase
                .get("detail")
                .is_some_and(|detail| detail.as_str().is_some_and(|text| !text.is_empty())),
            "phase {number} says nothing"
        );
        ensure!(
            phase
                .get("seconds")
                .is_some_and(|seconds| seconds.as_f64() > Some(0.0)),
            "phase {number} took no time"
        );
    }
    Ok(())
}

pub(crate) fn broken() -> Outcome {
    let copies = Copies::make()?;
    copies.break_program("weir-proxy")?;
    let ran = check(copies.weir(), &[])?;
    ensure!(
        ran.status.code() == Some(1),
        "{}\n{}\n{}",
        ran.status,
        ran.stdout,
        ran.stderr
    );
    let objects = objects(&ran)?;
    ensure!(!objects.is_empty(), "nothing was printed");
    ensure!(
        objects
            .iter()
            .all(|object| object.get("ok") != Some(&true.into())),
        "a phase holds without sidecars: {objects:?}"
    );
    ensure!(
        ran.stderr.contains("weir-proxy: exit code 1"),
        "it does not say why:\n{}",
        ran.stderr
    );
    Ok(())
}
