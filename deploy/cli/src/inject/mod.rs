//! `weir inject`: adds the sidecar to manifests as the webhook adds it to pods.

mod settings;
mod workload;

use std::{
    fs,
    io::{self, IsTerminal, Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde_json::Value;
use weir_controller::{injector::Settings, spec};

use crate::api;
pub(crate) use settings::SettingsArgs;
use workload::{Outcome, Scope};

/// Flags of `weir inject`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Files of manifests, YAML or JSON; - is standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// The namespace of workloads that name none.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Writes the manifests with sidecars to standard output, and what became of each to standard error.
///
/// # Errors
/// When a manifest cannot be read, or a workload cannot be injected; nothing is written then.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let texts = read_all(&args.files)?;
    let settings = args.settings.settings(cluster).await?;
    let (output, report) = inject(&texts, &args.namespace, &settings)?;
    io::stderr().write_all(report.as_bytes())?;
    io::stdout().write_all(output.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Each file's name and text; - is standard input.
pub(crate) fn read_all(files: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let text = |file: &PathBuf| {
        let text = read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok((file.display().to_string(), text))
    };
    files.iter().map(text).collect()
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    if file.as_os_str() != "-" {
        return Ok(fs::read_to_string(file)?);
    }
    let mut stdin = io::stdin();
    if stdin.is_terminal() {
        bail!("nothing is piped in; name a file, or pipe manifests in");
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text)?;
    Ok(text)
}

/// The manifests with sidecars, and a line about each workload.
pub(crate) fn inject(
    texts: &[(String, String)],
    namespace: &str,
    settings: &Settings,
) -> anyhow::Result<(String, String)> {
    let mut documents = Vec::new();
    for (file, text) in texts {
        for (line, document) in spec::split(text) {
            let failed = || format!("{file}:{line} is not YAML or JSON");
            let value: Value = serde_saphyr::from_str(&document).with_context(failed)?;
            documents.push((file, line, document, value));
        }
    }
    let scope = Scope::new(
        namespace,
        settings,
        documents.iter().map(|(_, _, _, value)| value),
    );
    let (mut output, mut report) = (String::new(), String::new());
    for (file, line, document, mut value) in documents {
        let failed = || format!("{file}:{line}");
        let outcomes = scope.inject(&mut value).with_context(failed)?;
        let changed = outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Injected);
        for (name, outcome) in outcomes {
            report.push_str(&format!("{name} {outcome}\n"));
        }
        if !changed {
            write_document(&mut output, document.trim_start_matches("---"));
        } else if document.trim_start().starts_with('{') {
            write_document(&mut output, &serde_json::to_string_pretty(&value)?);
        } else {
            write_document(
                &mut output,
                &serde_saphyr::to_string(&value).with_context(failed)?,
            );
        }
    }
    Ok((output, report))
}

fn write_document(output: &mut String, text: &str) {
    output.push_str("---\n");
    output.push_str(text.trim_start_matches(['\r', '\n']).trim_end());
    output.push('\n');
}

#[cfg(test)]
mod tests;
