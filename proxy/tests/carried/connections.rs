//! Opaque connections share one between two sidecars, and neither end can tell.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use weir_proxy::{
    bucket::Settings,
    model::{Action, Network, Rbac},
};

use super::{
    app::handshakes,
    pair::{
        Pair, Wire, change,
        secure::{ME, certify, secure},
        soon,
    },
};

/// Connections to an endpoint that have their own.
const OWN: usize = 4;
const GREETING: &str = "220 welcome\r\n";

/// An application that speaks first, says everything again, and `bye` when the client has ended.
fn play(application: TcpListener) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((stream, _)) = application.accept().await {
            tokio::spawn(say_again(stream));
        }
    })
}

async fn say_again(mut stream: TcpStream) {
    let mut heard = vec![0; 64 * 1024];
    let mut said = stream.write_all(GREETING.as_bytes()).await;
    while let (Ok(()), Ok(length)) = (said, stream.read(&mut heard).await) {
        if heard[..length].starts_with(b"reset") {
            stream.set_zero_linger().unwrap();
            return;
        }
        said = match length {
            0 => stream
                .write_all(b"bye")
                .await
                .and(Err(ErrorKind::UnexpectedEof.into())),
            _ => stream.write_all(&heard[..length]).await,
        };
    }
}

/// A pair with mutual TLS between the sidecars before that application, and connections that have their own.
async fn crowded() -> (Pair, Vec<Wire>, JoinHandle<()>) {
    let mut pair = Pair::start().await;
    let application = play(pair.take_application());
    certify(&pair.store);
    secure(&pair.store, "inbound-tcp", "inbound-tcp", ME).await;
    soon(async {
        loop {
            let mut client = Wire::connect(pair.tcp).await;
            // A sidecar that waits for a handshake is told by this that there will be none.
            client.send("plain").await;
            if client.bytes_until(GREETING).await.is_some() && handshakes(&pair) > 0 {
                return;
            }
        }
    })
    .await;
    let mut own = Vec::new();
    for _ in 0..OWN {
        own.push(soon(greeted(&pair)).await.unwrap());
    }
    (pair, own, application)
}

/// A new connection whose greeting has come.
async fn greeted(pair: &Pair) -> Option<Wire> {
    let mut client = Wire::connect(pair.tcp).await;
    client.bytes_until(GREETING).await.map(|_| client)
}

/// Connections that share one.
async fn sharing(pair: &Pair, count: usize) -> Vec<Wire> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(soon(greeted(pair)).await.unwrap());
    }
    clients
}

/// A series of the sidecars' metrics.
fn count(pair: &Pair, series: &str) -> u64 {
    let metrics = pair.telemetry.render();
    let counted = metrics.lines().find_map(|line| line.strip_prefix(series));
    counted.map_or(0, |count| count.trim().parse().unwrap())
}

const INBOUND: &str = r#"weir_connections_opened_total{direction="inbound",protocol="tcp",tls="true"}"#;

async fn filter(pair: &Pair, filter: Network) {
    change::chains(&pair.store, "inbound-tcp", |chain| {
        chain.network = vec![filter.clone()];
    })
    .await;
}

fn nobody() -> Network {
    Network::Rbac(Some(Arc::new(Rbac {
        action: Action::Allow,
        policies: Vec::new(),
    })))
}

/// Whether it ends with a reset.
async fn is_reset(client: &mut Wire) -> bool {
    let mut rest = Vec::new();
    let read = soon(client.stream.read_to_end(&mut rest)).await;
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn neither_end_can_tell_that_connections_share_one() {
    let (pair, _own, _application) = crowded().await;
    let (before, opened) = (handshakes(&pair), count(&pair, INBOUND));
    let mut clients = sharing(&pair, 10).await;
    assert_eq!(handshakes(&pair), before + 1, "one connection for all of them");
    assert_eq!(count(&pair, INBOUND), opened + 10, "each is counted");
    for client in &mut clients {
        client.send("question\n").await;
        assert_eq!(client.until("\n").await, "question\n");
    }
    for client in &mut clients {
        client.send("last").await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await, "lastbye", "a half-closed one still answers");
    }
}

#[tokio::test]
async fn a_large_transfer_through_a_shared_connection_arrives_whole() {
    const LENGTH: usize = 4 << 20;
    let (pair, _own, _application) = crowded().await;
    let clients = sharing(&pair, 3).await.into_iter().map(|client| async {
        let (mut read, mut write) = client.stream.into_split();
        let sending = async move {
            write.write_all(&vec![b'x'; LENGTH]).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut came = Vec::new();
        let (_, read) = tokio::join!(sending, read.read_to_end(&mut came));
        read.unwrap()
    });
    let came = soon(futures::future::join_all(clients)).await;
    assert_eq!(came, [LENGTH + "bye".len(); 3]);
}

#[tokio::test]
async fn a_reset_passes_through_a_shared_connection() {
    let (pair, _own, _application) = crowded().await;
    let mut clients = sharing(&pair, 2).await;
    clients[0].send("reset").await;
    assert!(is_reset(&mut clients[0]).await);
    clients[1].send("well\n").await;
    clients[1].until("well\n").await;
}

#[tokio::test]
async fn an_application_that_is_gone_resets_a_connection_that_shares_one() {
    let (pair, _own, application) = crowded().await;
    let mut before = sharing(&pair, 1).await;
    application.abort();
    let _ = application.await;
    let mut client = Wire::connect(pair.tcp).await;
    assert!(is_reset(&mut client).await);
    before[0].send("well\n").await;
    before[0].until("well\n").await;
}

#[tokio::test]
async fn a_revoked_policy_ends_connections_that_share_one() {
    let (pair, _own, _application) = crowded().await;
    let mut clients = sharing(&pair, 3).await;
    filter(&pair, nobody()).await;
    for client in &mut clients {
        assert!(is_reset(client).await);
    }
    let mut client = Wire::connect(pair.tcp).await;
    assert!(is_reset(&mut client).await, "nor does it let in another");
    let denied = r#"weir_denied_total{direction="inbound",reason="#;
    assert!(count(&pair, &format!("{denied}\"policy_revoked\"}}")) >= 3);
    assert!(count(&pair, &format!("{denied}\"rbac_connection\"}}")) >= 1);
}

#[tokio::test]
async fn the_rate_limit_counts_connections_that_share_one() {
    let (pair, _own, _application) = crowded().await;
    let _clients = sharing(&pair, 1).await;
    let limit = Settings {
        max_tokens: 2,
        tokens_per_fill: 1,
        fill_interval: Duration::from_secs(3600),
    };
    filter(&pair, Network::LocalRateLimit(limit)).await;
    let limited = r#"weir_denied_total{direction="inbound",reason="rate_limited"}"#;
    soon(async {
        while count(&pair, limited) == 0 {
            let mut client = Wire::connect(pair.tcp).await;
            let _ = client.bytes_until(GREETING).await;
        }
    })
    .await;
    let mut client = Wire::connect(pair.tcp).await;
    assert!(is_reset(&mut client).await);
}

#[tokio::test]
async fn connections_that_share_one_survive_a_drain() {
    let (pair, _own, _application) = crowded().await;
    let mut clients = sharing(&pair, 3).await;
    let before = handshakes(&pair);
    pair.drain.begin();
    // What comes meanwhile has connections of its own.
    soon(async {
        while handshakes(&pair) < before + 2 {
            greeted(&pair).await.unwrap();
        }
    })
    .await;
    for client in &mut clients {
        client.send("still here\n").await;
        client.until("still here\n").await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await, "bye");
    }
}
