//! A TCP server that gives back what it gets, and may speak first.

use anyhow::Context;
use tokio::{
    io::{self, AsyncWriteExt},
    net::TcpStream,
};

use crate::web;

/// Where to listen and what to say.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Port to serve on; may be given several times.
    #[arg(long, required = true)]
    port: Vec<u16>,
    /// What it says before the client does, with a line end after it.
    #[arg(long)]
    greeting: Option<String>,
}

/// Serves until the process ends.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let greeting = args.greeting.map(|text| format!("{text}\n")).unwrap_or_default();
    let mut servers = tokio::task::JoinSet::new();
    for port in args.port {
        let listener = web::bind(port).await?;
        let greeting = greeting.clone();
        servers.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let greeting = greeting.clone();
                tokio::spawn(async move {
                    if let Err(error) = echo(stream, &greeting).await {
                        tracing::debug!("connection: {error}");
                    }
                });
            }
        });
    }
    let ended = servers.join_next().await;
    ended.context("no port")?.context("a listener failed")
}

async fn echo(mut stream: TcpStream, greeting: &str) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    write.write_all(greeting.as_bytes()).await?;
    io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}
