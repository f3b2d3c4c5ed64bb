//! `weir uninstall`: takes the mesh out of a cluster.

mod objects;
mod sidecars;

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use kube::{Client, core::DynamicObject};
use tokio::time::Instant;

use crate::{
    api,
    install::{existing, parse_duration},
    manifests,
};

/// Flags of `weir uninstall`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Do not ask whether it is meant.
    #[arg(short, long)]
    force: bool,
    /// Delete the mesh's kinds too, and with them every TrafficTarget, TrafficSplit and other policy in the cluster.
    #[arg(short = 'a', long, visible_alias = "delete-cluster-wide-resources")]
    delete_crds: bool,
    /// Keep the control plane's namespace.
    #[arg(long, conflicts_with = "delete_namespace")]
    keep_namespace: bool,
    /// Delete the control plane's namespace, whatever else is in it.
    #[arg(long)]
    delete_namespace: bool,
    /// Do not wait until everything is gone.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, such as 90s or 5m.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    timeout: Duration,
}

/// Deletes everything of the mesh: what was installed and what the controllers made.
///
/// # Errors
/// When Helm looks after the mesh, the answer is no, the API server refuses, or something does not go in time.
pub async fn run(cluster: &api::Options, args: &Args) -> anyhow::Result<ExitCode> {
    let client = api::connect(cluster).await?;
    let namespace = cluster.namespace.as_str();
    let found = existing::find(&client).await?;
    if let Some(mesh) = found.iter().find(|mesh| mesh.namespace != namespace) {
        bail!(
            "{mesh} is installed; add --weir-namespace {} to remove it",
            mesh.namespace
        );
    }
    if let Some(mesh) = found.iter().find(|mesh| mesh.by_helm) {
        bail!("{mesh} was installed with Helm; remove it with `helm uninstall -n {namespace}`");
    }
    let meshed = sidecars::find(&client).await?;
    write!(io::stdout(), "{}", sidecars::warning(&meshed))?;
    if !args.force && !confirmed(namespace, args.delete_crds)? {
        writeln!(io::stdout(), "nothing was changed")?;
        return Ok(ExitCode::FAILURE);
    }

    let deadline = Instant::now() + args.timeout;
    let mut removal = Removal {
        client: &client,
        removed: Vec::new(),
    };
    // The webhooks first: without a controller they would hold up pods. Then the controllers, which would make their
    // Lease and Secret again.
    for object in objects::writers(namespace)? {
        removal.delete(object).await?;
    }
    if !args.no_wait {
        objects::wait_for_controllers(&client, namespace, deadline).await?;
    }
    for object in objects::rest(namespace)? {
        removal.delete(object).await?;
    }
    if args.delete_crds {
        for crd in manifests::crds()? {
            removal
                .delete(objects::named(&serde_json::to_value(crd)?)?)
                .await?;
        }
    }
    if !args.keep_namespace {
        match objects::namespace(&client, namespace, args.delete_namespace).await? {
            objects::Fate::Ours(object) => removal.delete(*object).await?,
            objects::Fate::Kept(why) => writeln!(io::stdout(), "Namespace {namespace} stays: {why}")?,
            objects::Fate::Missing => {}
        }
    }
    let none = removal.removed.is_empty();
    if !args.no_wait {
        removal.wait(deadline).await?;
    }
    let end = match (none, args.no_wait) {
        (true, _) => format!("nothing of the mesh was in namespace {namespace}"),
        (false, true) => "the mesh is being removed".to_owned(),
        (false, false) => "the mesh is uninstalled".to_owned(),
    };
    writeln!(io::stdout(), "{end}")?;
    Ok(ExitCode::SUCCESS)
}

/// Deletes, and remembers what has to go.
struct Removal<'a> {
    client: &'a Client,
    removed: Vec<DynamicObject>,
}

impl Removal<'_> {
    async fn delete(&mut self, object: DynamicObject) -> anyhow::Result<()> {
        if api::delete(self.client, &object).await? {
            writeln!(io::stdout(), "{} deleted", api::describe(&object))?;
            self.removed.push(object);
        }
        Ok(())
    }

    async fn wait(&self, deadline: Instant) -> anyhow::Result<()> {
        for object in &self.removed {
            if !api::gone(self.client, object, deadline).await? {
                bail!(
                    "{} is still being deleted; see what holds it in its metadata.finalizers and its conditions",
                    api::describe(object)
                );
            }
        }
        Ok(())
    }
}

fn confirmed(namespace: &str, crds: bool) -> anyhow::Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        bail!("nobody is there to ask; add --force to remove the mesh from namespace {namespace}");
    }
    let also = if crds {
        ", and every policy of the whole cluster,"
    } else {
        ""
    };
    let mut out = io::stdout();
    write!(
        out,
        "Remove the mesh in namespace {namespace}{also} from the cluster? [y/n] "
    )?;
    out.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
