//! The bookstore: sells a book a request and tells the warehouse.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;

use crate::web::{self, Answer, Client};

/// Which store this is.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the `Identity` response header says.
    #[arg(long, env = "IDENTITY", default_value = "bookstore")]
    identity: String,
    /// Port to serve on.
    #[arg(long, default_value_t = 14001)]
    port: u16,
    /// The warehouse's address.
    #[arg(long, default_value = "http://bookwarehouse.bookwarehouse:14001")]
    warehouse: String,
    /// How long a sale takes, in milliseconds.
    #[arg(long, default_value_t = 0)]
    sale_ms: u64,
}

struct Store {
    identity: HeaderValue,
    restock: Uri,
    sale: Duration,
    client: Client,
    sold: AtomicU64,
}

/// Sells until the process ends.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let store = Arc::new(Store {
        identity: args.identity.parse().context("--identity")?,
        restock: format!("{}/restock-books", args.warehouse)
            .parse()
            .context("--warehouse")?,
        sale: Duration::from_millis(args.sale_ms),
        client: Client::new(Duration::from_secs(5)),
        sold: AtomicU64::new(0),
    });
    web::serve(args.port, move |request| {
        let store = store.clone();
        async move {
            let mut answer = store.handle(request.method(), request.uri().path()).await;
            answer.headers_mut().insert("identity", store.identity.clone());
            answer
        }
    })
    .await
}

impl Store {
    async fn handle(self: &Arc<Self>, method: &Method, path: &str) -> Answer {
        match (method, path) {
            (&Method::GET, "/" | "/books-bought") => web::answer(
                StatusCode::OK,
                format!("{} books sold\n", self.sold.load(Ordering::Relaxed)),
            ),
            (&Method::GET, "/buy-a-book/new") => self.sell().await,
            (&Method::GET, "/raw") => {
                web::json(&serde_json::json!({ "booksSold": self.sold.load(Ordering::Relaxed) }))
            }
            (&Method::POST, "/reset") => {
                self.sold.store(0, Ordering::Relaxed);
                web::answer(StatusCode::OK, "reset\n")
            }
            (&Method::GET, "/liveness" | "/readiness" | "/startup") => web::answer(StatusCode::OK, "ok\n"),
            _ => web::answer(StatusCode::NOT_FOUND, "no such shelf\n"),
        }
    }

    async fn sell(self: &Arc<Self>) -> Answer {
        tokio::time::sleep(self.sale).await;
        self.sold.fetch_add(1, Ordering::Relaxed);
        // A customer does not wait for the warehouse, nor is the sale undone when the warehouse is away.
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.restock().await {
                tracing::warn!("the warehouse was not told: {error:#}");
            }
        });
        web::answer(StatusCode::OK, "sold\n")
    }

    async fn restock(&self) -> anyhow::Result<()> {
        let request = Request::post(self.restock.clone()).body(Full::new(Bytes::from_static(b"1")))?;
        let response = self.client.send(request).await?;
        anyhow::ensure!(response.status().is_success(), "status {}", response.status());
        Ok(())
    }
}
