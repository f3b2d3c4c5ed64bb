//! `weir policy`: what the mesh's policy lets happen, and by which object.

mod answer;
mod judge;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use weir_controller::{
    endpoints,
    spec::{MeshConfig, ObjectName},
};

use crate::{
    api,
    check::{self, Output},
};

/// Flags of `weir policy`.
#[derive(clap::Args, Clone, Debug)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    question: Question,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Question {
    /// Tells whether one pod may reach another: by which object, or what is missing. Ends with status 1 when not.
    CheckPods {
        /// The pod that asks: NAMESPACE/NAME, or NAME in the namespace of the context.
        #[arg(value_name = "SRC")]
        source: String,
        /// The pod that is asked.
        #[arg(value_name = "DST")]
        destination: String,
        /// How to print it.
        #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
        output: Output,
    },
}

/// Answers a question about the mesh's policy.
///
/// # Errors
/// When the cluster does not answer, or a pod is not there.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let Question::CheckPods {
        source,
        destination,
        output,
    } = &args.question;
    let client = api::connect(cluster).await?;
    let [source, destination] = [source, destination].map(|pod| named(pod, client.default_namespace()));
    let settings = check::settings(&client, &cluster.namespace).await?;
    let objects = endpoints::list(&client).await?;
    let config = ObjectName::new(&settings.namespace, MeshConfig::NAME);
    if !objects.mesh_configs.contains_key(&config) {
        anyhow::bail!("there is no MeshConfig {config}, and so no mesh; run `weir install`");
    }
    let answer = judge::judge(&objects, &settings, &source, &destination)?;
    let mut out = io::stdout();
    match output {
        Output::Text => write!(out, "{answer}")?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?,
    }
    Ok(match answer.allowed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// `namespace/name`, or a name alone.
pub(crate) fn named(pod: &str, default_namespace: &str) -> ObjectName {
    match pod.split_once('/') {
        Some((namespace, name)) => ObjectName::new(namespace, name),
        None => ObjectName::new(default_namespace, pod),
    }
}
