//! Applications, and clients that let no failed request pass.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{pair::Wire, proxy::until};

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";

/// A server that answers every request with its name; its port.
pub(crate) async fn application(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = Wire::new(stream);
                while wire.next_head().await.is_some() {
                    let length = name.len() + 1;
                    wire.send(format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}\n"
                    ))
                    .await;
                }
            });
        }
    });
    port
}

/// Where a listener of the proxy is.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// One request over a connection of its own: the status, and who answered when it is 200.
pub(crate) async fn ask(port: u16) -> (u16, String) {
    ask_over(&mut connect(port).await).await
}

/// A connection, as soon as something listens.
pub(crate) async fn connect(port: u16) -> Wire {
    loop {
        match TcpStream::connect(local(port)).await {
            Ok(stream) => return Wire::new(stream),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn ask_over(wire: &mut Wire) -> (u16, String) {
    wire.send(GET).await;
    let head = wire.head().await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let name = match status {
        200 => wire.until("\n").await.trim_end().to_owned(),
        _ => String::new(),
    };
    (status, name)
}

/// Waits until requests are answered so.
pub(crate) async fn answers(port: u16, expected: &str) {
    let asking = async {
        while ask(port).await != (200, expected.to_owned()) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let asked = tokio::time::timeout(crate::control_plane::PATIENCE, asking).await;
    asked.unwrap_or_else(|_| panic!("{expected} does not answer"));
}

/// Waits until nothing listens.
pub(crate) async fn refuses(port: u16) {
    let refused = || std::net::TcpStream::connect(local(port)).map_or(Ok(()), Err);
    until("nothing listens", refused).await;
}

/// Clients without a pause. Each failure ends the test.
pub(crate) struct Load {
    clients: JoinSet<()>,
    answers: Arc<AtomicUsize>,
}

impl Load {
    pub(crate) fn start(port: u16) -> Self {
        let (mut clients, answers) = (JoinSet::new(), Arc::<AtomicUsize>::default());
        for keeps in [true, true, false] {
            let answers = answers.clone();
            clients.spawn(async move {
                let mut wire = connect(port).await;
                loop {
                    if !keeps {
                        wire = connect(port).await;
                    }
                    let (status, _) = ask_over(&mut wire).await;
                    assert_eq!(status, 200, "a request was lost");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { clients, answers }
    }

    /// Waits until some more requests were answered.
    pub(crate) async fn goes_on(&mut self) {
        let goal = self.answers.load(Ordering::Relaxed) + 50;
        while self.answers.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            if let Some(ended) = self.clients.try_join_next() {
                ended.unwrap();
            }
        }
    }
}
