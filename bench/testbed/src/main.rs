//! `weir-testbed`: runs a directory of Kubernetes manifests as Linux namespaces, with no mesh in it.

use std::path::PathBuf;

use clap::Parser;
use weir_testbed::{Image, Options, Sandbox, Testbed};

/// Runs Kubernetes manifests as Linux namespaces, without root and without a cluster.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Directory of manifests; it is watched.
    manifests: PathBuf,
    /// Directory for logs, volumes and observed objects.
    #[arg(long, default_value = "weir-run")]
    run_dir: PathBuf,
    /// An image and the executable it stands for: NAME=PATH. May be repeated.
    #[arg(long = "image", value_name = "NAME=PATH")]
    images: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let sandbox = Sandbox::enter()?;
    let args = Args::parse();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(sandbox, args))
}

async fn run(sandbox: Sandbox, args: Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.run_dir)?;
    let mut options = Options::new(
        sandbox,
        vec![args.manifests.canonicalize()?],
        args.run_dir.canonicalize()?,
    );
    for image in &args.images {
        let (name, path) = image
            .split_once('=')
            .ok_or_else(|| anyhow::anyhow!("--image {image}: write NAME=PATH"))?;
        options
            .images
            .insert(name.to_owned(), Image::new(PathBuf::from(path).canonicalize()?));
    }
    let testbed = Testbed::start(options).await?;
    let mut events = testbed.events();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        tokio::select! {
            Ok(event) = events.recv() => println!("{event:?}"),
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
        }
    }
    testbed.stop().await
}
