//! Clients to be run inside a pod: one HTTP request or one TCP exchange, its outcome on standard output.

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::web::Client;

/// Asks for a URL and prints a line of JSON for each answer: `status`, `headers` and `body`, or `error`.
#[derive(clap::Args)]
pub(crate) struct Fetch {
    /// What to ask for, `http://` only.
    url: Uri,
    /// How often, over connections that are kept.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// A header as `name: value`.
    #[arg(long = "header", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The request's body.
    #[arg(long, default_value = "")]
    body: String,
    /// How long an answer may take, in milliseconds.
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
    /// Speak HTTP/2 from the first byte.
    #[arg(long)]
    http2: bool,
}

/// Opens a TCP connection, sends a text, and prints what comes back until the other end closes.
#[derive(clap::Args)]
pub(crate) struct Tell {
    /// `host:port`.
    to: String,
    /// What to send; nothing but the end, when it is left out.
    #[arg(default_value = "")]
    text: String,
    /// Waits for this many bytes of the other end before anything is sent.
    #[arg(long, default_value_t = 0)]
    hear: usize,
    /// How long all of it may take, in milliseconds.
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Answered {
        status: u16,
        headers: BTreeMap<String, String>,
        body: String,
    },
    Failed {
        error: String,
    },
}

fn header(text: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("a header is name: value")?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}

/// Asks, prints, and fails when a request got no answer, of whatever status.
pub(crate) async fn fetch(args: Fetch) -> anyhow::Result<()> {
    let wait = Duration::from_millis(args.timeout_ms);
    let client = match args.http2 {
        true => Client::http2(wait),
        false => Client::new(wait),
    };
    let mut failures = 0u32;
    for _ in 0..args.times {
        let mut request = Request::builder()
            .method(args.method.clone())
            .uri(args.url.clone());
        for (name, value) in &args.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(args.body.clone())))?;
        let answer = match client.send(request).await {
            Ok(response) => answered(&response),
            Err(error) => {
                failures += 1;
                let error = format!("{error:#}");
                Answer::Failed { error }
            }
        };
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&answer)?)?;
    }
    match failures {
        0 => Ok(()),
        _ => bail!("{failures} of {} requests got no answer", args.times),
    }
}

fn answered(response: &http::Response<Bytes>) -> Answer {
    let headers = response.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    Answer::Answered {
        status: response.status().as_u16(),
        headers: headers.collect(),
        body: String::from_utf8_lossy(response.body()).into_owned(),
    }
}

/// Exchanges, and fails when there is no connection or it does not end well.
pub(crate) async fn tell(args: Tell) -> anyhow::Result<()> {
    let wait = Duration::from_millis(args.timeout_ms);
    let exchange = timeout(wait, exchange(&args)).await;
    exchange.with_context(|| format!("not done within {wait:?}"))?
}

async fn exchange(args: &Tell) -> anyhow::Result<()> {
    let connected = TcpStream::connect(&args.to).await;
    let mut stream = connected.with_context(|| format!("cannot connect to {}", args.to))?;
    let mut heard = vec![0; args.hear];
    let read = stream.read_exact(&mut heard).await;
    read.with_context(|| format!("{} closed before it had said {} bytes", args.to, args.hear))?;
    stream.write_all(args.text.as_bytes()).await?;
    stream.shutdown().await?;
    stream.read_to_end(&mut heard).await?;
    std::io::stdout().write_all(&heard)?;
    Ok(())
}
