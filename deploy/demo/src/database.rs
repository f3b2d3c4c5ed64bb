//! A database that speaks first: the server side of `mysql`, with one counter.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use crate::{
    mysql::{self, Challenge, Command, Error, Packets},
    web,
};

/// Who may log in.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Port to serve on.
    #[arg(long, default_value_t = 3306)]
    port: u16,
    /// Password of `root`.
    #[arg(long, env = "MYSQL_ROOT_PASSWORD", default_value = "mypassword")]
    password: String,
}

/// Serves until the process ends.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let listener = web::bind(args.port).await?;
    let password: Arc<str> = args.password.into();
    let total: Arc<AtomicU64> = Arc::default();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (password, total) = (password.clone(), total.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            if let Err(error) = serve(Packets::new(stream), &password, &total).await {
                tracing::debug!("connection: {error}");
            }
        });
    }
}

async fn serve<S>(mut packets: Packets<S>, password: &str, total: &AtomicU64) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let challenge = fresh_challenge();
    packets.write(&mysql::greeting(&challenge)).await?;
    packets.flush().await?;
    let Ok(login) = timeout(Duration::from_secs(10), packets.read()).await else {
        return Ok(());
    };
    let (user, scrambled) = mysql::credentials(&login?)?;
    if user != "root" || scrambled != mysql::scramble(password, &challenge) {
        packets
            .write(&mysql::error(1045, b"28000", "Access denied"))
            .await?;
        return packets.flush().await;
    }
    packets.write(&mysql::OK).await?;
    packets.flush().await?;
    loop {
        match mysql::command(&packets.read().await?)? {
            Command::Quit => return Ok(()),
            Command::Ping => packets.write(&mysql::OK).await?,
            Command::Query(statement) => {
                for packet in answer(&statement, total) {
                    packets.write(&packet).await?;
                }
            }
            Command::Other => {
                packets
                    .write(&mysql::error(1047, b"08S01", "Unknown command"))
                    .await?
            }
        }
        packets.flush().await?;
    }
}

/// The statements of the warehouse, and a client's chatter at login; no more.
fn answer(statement: &str, total: &AtomicU64) -> Vec<Vec<u8>> {
    let statement = statement.trim().trim_end_matches(';');
    let lower = statement.to_ascii_lowercase();
    if lower.starts_with("create ") || lower.starts_with("set ") || lower.starts_with("use ") {
        return vec![mysql::OK.to_vec()];
    }
    if lower.starts_with("select sum(books) from ") {
        return mysql::single("SUM(books)", &total.load(Ordering::Relaxed).to_string()).to_vec();
    }
    if lower.starts_with("insert into ") {
        let books = lower
            .split_once("values (")
            .and_then(|(_, rest)| rest.trim_end_matches(')').trim().parse().ok());
        if let Some(books) = books {
            total.fetch_add(books, Ordering::Relaxed);
            return vec![mysql::OK.to_vec()];
        }
    }
    if lower.starts_with("select @@") {
        return mysql::single("@@version_comment", "the bookstore demo's database").to_vec();
    }
    vec![mysql::error(
        1064,
        b"42000",
        "this demo database only counts books",
    )]
}

/// Different for each connection, which is all that a demo with a password in its manifest needs.
fn fresh_challenge() -> Challenge {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let seed = format!("{now}-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, seed.as_bytes());
    let mut challenge = [b'x'; 20];
    for (byte, random) in challenge.iter_mut().zip(hash.as_ref()) {
        *byte = b'!' + random % 90;
    }
    challenge
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn database() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let total = AtomicU64::new(0);
            while let Ok((stream, _)) = listener.accept().await {
                let _ = serve(Packets::new(stream), "secret", &total).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn the_warehouse_and_the_database_understand_each_other() {
        let address = database().await;
        let mut client = mysql::Client::connect(&address, "root", "secret").await.unwrap();
        for books in [1, 41] {
            let insert = format!("INSERT INTO booksdemo.sales (books) VALUES ({books})");
            assert_eq!(client.query(&insert).await.unwrap(), None);
        }
        let total = client
            .query("SELECT SUM(books) FROM booksdemo.sales")
            .await
            .unwrap();
        assert_eq!(total.as_deref(), Some("42"));
        assert!(client.query("DROP DATABASE booksdemo").await.is_err());
    }

    #[tokio::test]
    async fn a_wrong_password_is_refused() {
        let address = database().await;
        let refused = mysql::Client::connect(&address, "root", "guess").await;
        assert!(matches!(refused, Err(Error::Refused(text)) if text.contains("Access denied")));
    }
}
