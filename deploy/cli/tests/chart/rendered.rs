//! What each tool makes of the manifests.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use serde_json::Value;

/// Objects by kind and name.
pub(crate) type Objects = BTreeMap<String, Value>;

/// The tools, and what they render.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// Directory with kubectl and helm.
    pub(crate) programs: PathBuf,
    /// The chart.
    pub(crate) chart: PathBuf,
}

impl Tools {
    pub(crate) fn kustomize(&self) -> anyhow::Result<Objects> {
        read(
            Command::new(self.programs.join("kubectl"))
                .arg("kustomize")
                .arg(&self.chart),
        )
    }

    pub(crate) fn helm(&self, namespace: &str, values: &[&str]) -> anyhow::Result<Objects> {
        let mut command = Command::new(self.programs.join("helm"));
        command.args([
            "template",
            "weir",
            "--include-crds",
            "--kube-version",
            "1.33.0",
            "--namespace",
            namespace,
        ]);
        for value in values {
            command.args(["--set", value]);
        }
        read(command.arg(&self.chart))
    }

    pub(crate) fn weir(&self, namespace: &str, values: &[&str]) -> anyhow::Result<Objects> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["install", "--output", "yaml", "--weir-namespace", namespace]);
        for value in values {
            command.args(["--set", &listed(value)]);
        }
        read(&mut command)
    }

    pub(crate) fn lint(&self) -> anyhow::Result<()> {
        let mut command = Command::new(self.programs.join("helm"));
        run(command
            .args(["lint", "--strict", "--kube-version", "1.33.0"])
            .arg(&self.chart))
        .map(drop)
    }
}

/// Helm's `a[0].b=c` as a value that is a list, which weir takes as YAML: `a=[{b: c}]`.
fn listed(value: &str) -> String {
    match value.split_once("[0].") {
        None => value.to_owned(),
        Some((list, item)) => format!("{list}=[{{{}}}]", item.replacen('=', ": ", 1)),
    }
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn read(command: &mut Command) -> anyhow::Result<Objects> {
    let text = run(command)?;
    let mut objects = Objects::new();
    for document in text.split("\n---") {
        let document = document.trim_start_matches("---");
        let object: Value =
            serde_saphyr::from_str(document).with_context(|| format!("{command:?}: {document}"))?;
        if object.is_null() {
            continue;
        }
        let name = |path: &str| {
            object
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let key = format!("{} {}", name("/kind"), name("/metadata/name"));
        if let Some(twice) = objects.insert(key, object) {
            bail!("{command:?} makes {} twice", twice["metadata"]["name"]);
        }
    }
    Ok(objects)
}

/// Where two sets of objects are not the same.
pub(crate) fn differences(theirs: &Objects, ours: &Objects) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for key in theirs.keys().chain(ours.keys()) {
        compare(key, theirs.get(key), ours.get(key), &mut found);
    }
    found.sort();
    found.dedup();
    match found.is_empty() {
        true => Ok(()),
        false => bail!("theirs and weir's differ:\n{}", found.join("\n")),
    }
}

fn compare(path: &str, theirs: Option<&Value>, ours: Option<&Value>, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Some(Value::Object(theirs)), Some(Value::Object(ours))) => {
            for key in theirs.keys().chain(ours.keys()) {
                compare(&format!("{path}.{key}"), theirs.get(key), ours.get(key), found);
            }
        }
        (Some(Value::Array(theirs)), Some(Value::Array(ours))) if theirs.len() == ours.len() => {
            for (index, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
                compare(&format!("{path}[{index}]"), Some(theirs), Some(ours), found);
            }
        }
        (Some(theirs), Some(ours)) if same(theirs, ours) => {}
        (theirs, ours) => found.push(format!("{path}: {theirs:?} and {ours:?}")),
    }
}

/// Helm knows one kind of number.
fn same(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::Number(theirs), Value::Number(ours)) => theirs.as_f64() == ours.as_f64(),
        (theirs, ours) => theirs == ours,
    }
}
