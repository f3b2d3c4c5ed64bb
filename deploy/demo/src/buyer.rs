//! The bookbuyer and the bookthief: the same customer with another conscience.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use crate::web::{self, Client};

/// Where and how fast to buy.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store's address.
    #[arg(long, default_value = "http://bookstore.bookstore.svc.cluster.local:14001")]
    bookstore: String,
    /// Purchases begun per second.
    #[arg(long, default_value_t = 1)]
    rate: u32,
    /// Port of the counters: `/raw` as JSON, `/reset` with POST.
    #[arg(long, default_value_t = 14001)]
    port: u16,
}

/// What came of the purchases so far.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    books_bought: u64,
    books_bought_v1: u64,
    books_bought_v2: u64,
    /// Answered 403.
    refused: u64,
    /// Answered with another error, or not at all.
    failed: u64,
    /// Why the last one failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<String>,
}

/// Buys until the process ends.
pub(crate) async fn run(name: &'static str, args: Args) -> anyhow::Result<()> {
    let counts: Arc<Mutex<Counts>> = Arc::default();
    let shown = counts.clone();
    let buying = buy(name, args.bookstore.clone(), args.rate.max(1), counts);
    let showing = web::serve(args.port, move |request| {
        let answer = show(request.method(), request.uri().path(), &shown);
        async move { answer }
    });
    tokio::select! {
        outcome = buying => outcome,
        outcome = showing => outcome,
    }
}

fn show(method: &Method, path: &str, counts: &Mutex<Counts>) -> web::Answer {
    match (method, path) {
        (&Method::GET, "/raw") => web::json(&*counts.lock()),
        (&Method::POST, "/reset") => {
            *counts.lock() = Counts::default();
            web::answer(StatusCode::OK, "reset\n")
        }
        (&Method::GET, "/liveness" | "/readiness" | "/startup") => web::answer(StatusCode::OK, "ok\n"),
        _ => web::answer(StatusCode::NOT_FOUND, "try /raw\n"),
    }
}

async fn buy(name: &'static str, store: String, rate: u32, counts: Arc<Mutex<Counts>>) -> anyhow::Result<()> {
    let look: Uri = format!("{store}/books-bought").parse().context("--bookstore")?;
    let purchase: Uri = format!("{store}/buy-a-book/new").parse().context("--bookstore")?;
    let client = Client::new(Duration::from_secs(5));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0u64.. {
        ticks.tick().await;
        let uri = if turn % 2 == 0 { &look } else { &purchase };
        let (client, counts) = (client.clone(), counts.clone());
        let request = Request::get(uri.clone())
            .header("client-app", name)
            .header("user-agent", "Go-http-client/1.1")
            .body(Full::new(Bytes::new()))?;
        tokio::spawn(async move {
            let begun = Instant::now();
            let outcome = client.send(request).await;
            counts.lock().add(outcome, begun.elapsed());
        });
    }
    Ok(())
}

impl Counts {
    fn add(&mut self, outcome: anyhow::Result<http::Response<Bytes>>, took: Duration) {
        match outcome {
            Ok(response) if response.status() == StatusCode::OK => {
                let identity = response
                    .headers()
                    .get("identity")
                    .and_then(|value| value.to_str().ok());
                self.books_bought += 1;
                match identity {
                    Some(store) if store.starts_with("bookstore-v1") => self.books_bought_v1 += 1,
                    Some(store) if store.starts_with("bookstore-v2") => self.books_bought_v2 += 1,
                    _ => {}
                }
            }
            Ok(response) if response.status() == StatusCode::FORBIDDEN => self.refused += 1,
            Ok(response) => self.fail(format!("status {}", response.status())),
            Err(error) => self.fail(format!("{error:#} after {took:?}")),
        }
    }

    fn fail(&mut self, why: String) {
        tracing::debug!("{why}");
        self.failed += 1;
        self.last_failure = Some(why);
    }
}
