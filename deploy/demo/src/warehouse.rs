//! The bookwarehouse: counts the books sold, in a database.

use std::{sync::Arc, time::Duration};

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::sync::Mutex;

use crate::{
    mysql,
    web::{self, Answer},
};

/// Where the count is kept.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Port to serve on.
    #[arg(long, default_value_t = 14001)]
    port: u16,
    /// `host:port` of the MySQL server.
    #[arg(long, default_value = "mysql.bookwarehouse:3306")]
    database: String,
    /// User of the database.
    #[arg(long, default_value = "root")]
    user: String,
    /// Its password.
    #[arg(long, env = "MYSQL_PASSWORD", default_value = "mypassword")]
    password: String,
}

struct Warehouse {
    args: Args,
    /// One connection is enough for a counter; it is made anew after an error.
    connection: Mutex<Option<mysql::Client>>,
}

/// What the warehouse asks of a new connection before it counts.
const PREPARE: [&str; 2] = [
    "CREATE DATABASE IF NOT EXISTS booksdemo",
    "CREATE TABLE IF NOT EXISTS booksdemo.sales (id BIGINT AUTO_INCREMENT PRIMARY KEY, books BIGINT NOT NULL)",
];

/// Counts until the process ends.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let port = args.port;
    let warehouse = Arc::new(Warehouse {
        args,
        connection: Mutex::new(None),
    });
    web::serve(port, move |request| {
        let warehouse = warehouse.clone();
        async move { warehouse.handle(request).await }
    })
    .await
}

impl Warehouse {
    async fn handle(&self, request: Request<Incoming>) -> Answer {
        let outcome = match (request.method(), request.uri().path()) {
            (&Method::POST, "/restock-books") => self.restock(request.into_body()).await,
            (&Method::GET, "/raw") => self.total().await,
            (&Method::GET, "/liveness" | "/readiness" | "/startup") => {
                Ok(web::answer(StatusCode::OK, "ok\n"))
            }
            _ => Ok(web::answer(StatusCode::NOT_FOUND, "no such shelf\n")),
        };
        outcome.unwrap_or_else(|error| {
            tracing::warn!("{error:#}");
            web::answer(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n"))
        })
    }

    async fn restock(&self, body: Incoming) -> anyhow::Result<Answer> {
        let body = Limited::new(body, 64).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        let Some(books) = std::str::from_utf8(&body)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
        else {
            return Ok(web::answer(
                StatusCode::BAD_REQUEST,
                "the body must be a number of books\n",
            ));
        };
        self.query(&format!("INSERT INTO booksdemo.sales (books) VALUES ({books})"))
            .await?;
        Ok(web::answer(StatusCode::OK, "restocked\n"))
    }

    async fn total(&self) -> anyhow::Result<Answer> {
        let total = self.query("SELECT SUM(books) FROM booksdemo.sales").await?;
        let total = total.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Ok(web::json(&serde_json::json!({ "totalBooks": total })))
    }

    async fn query(&self, statement: &str) -> anyhow::Result<Option<String>> {
        let mut slot = self.connection.lock().await;
        let work = async {
            let mut client = match slot.take() {
                Some(client) => client,
                None => self.connect().await?,
            };
            let row = client.query(statement).await?;
            *slot = Some(client);
            Ok(row)
        };
        tokio::time::timeout(Duration::from_secs(5), work).await?
    }

    async fn connect(&self) -> anyhow::Result<mysql::Client> {
        let Args {
            database,
            user,
            password,
            ..
        } = &self.args;
        let mut client = mysql::Client::connect(database, user, password).await?;
        for statement in PREPARE {
            client.query(statement).await?;
        }
        Ok(client)
    }
}
