//! A pair of sidecars with mutual TLS between them, load on it, and the application behind it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore, watch},
};

use super::pair::{
    Pair, Wire,
    secure::{ME, certify, secure},
    soon,
};

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";
pub(crate) const POST: &str = "POST / HTTP/1.1\r\nhost: app\r\n\r\n";
pub(crate) const HOLD: &str = "GET /hold HTTP/1.1\r\nhost: app\r\n\r\n";
pub(crate) const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
/// What a message without a body ends with.
pub(crate) const END: &str = "\r\n\r\n";
/// Requests that are held, so that more are sent as under load. Of these the last is carried.
pub(crate) const HELD: usize = 5;

/// One request and its response, each with what it ends with on its way out of the sidecars.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) request: String,
    pub(crate) request_ends: &'static str,
    pub(crate) response: String,
    pub(crate) response_ends: &'static str,
}

pub(crate) fn case(
    name: &'static str,
    (request, request_ends): (&str, &'static str),
    (response, response_ends): (&str, &'static str),
) -> Case {
    let (line, rest) = request.split_once("\r\n").unwrap();
    Case {
        name,
        request: format!("{line}\r\nx-case: {name}\r\n{rest}"),
        request_ends,
        response: response.to_owned(),
        response_ends,
    }
}

/// An application that plays the cases, holds what is to be held, and answers 204 to all else.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) cases: Arc<Vec<Case>>,
    /// What it got, by the case's name.
    pub(crate) seen: Arc<Mutex<HashMap<&'static str, Vec<u8>>>>,
    /// Requests held now, until there is a permit for them.
    pub(crate) held: watch::Sender<usize>,
    pub(crate) release: Arc<Semaphore>,
    /// Cases played so far.
    pub(crate) played: Arc<AtomicUsize>,
}

impl App {
    pub(crate) fn new(cases: Vec<Case>) -> Self {
        Self {
            cases: Arc::new(cases),
            seen: Arc::default(),
            held: watch::Sender::default(),
            release: Arc::new(Semaphore::new(0)),
            played: Arc::default(),
        }
    }

    fn play(&self, application: TcpListener) {
        let app = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = application.accept().await {
                let (app, mut wire) = (app.clone(), Wire::new(stream));
                tokio::spawn(async move { while app.answer(&mut wire).await.is_some() {} });
            }
        });
    }

    /// Answers one request; `None`: it was the last.
    async fn answer(&self, wire: &mut Wire) -> Option<()> {
        let mut got = wire.bytes_until(END).await?;
        let head = String::from_utf8_lossy(&got).into_owned();
        if head.starts_with("GET /hold") {
            self.held.send_modify(|held| *held += 1);
            self.release.acquire().await.ok()?.forget();
            self.held.send_modify(|held| *held -= 1);
        }
        let name = head
            .split_once("x-case: ")
            .and_then(|(_, rest)| rest.split_once("\r\n"));
        let Some(case) = name.and_then(|(name, _)| self.cases.iter().find(|case| case.name == name)) else {
            wire.send(NO_CONTENT).await;
            return Some(());
        };
        if !head.ends_with(case.request_ends) {
            got.extend(
                wire.bytes_until(case.request_ends.trim_start_matches(END))
                    .await?,
            );
        }
        self.played.fetch_add(1, Ordering::Relaxed);
        self.seen.lock().await.insert(case.name, got);
        wire.send(&case.response).await;
        (!case.response.contains("connection: close")).then_some(())
    }

    pub(crate) async fn until_held(&self, count: usize) {
        soon(self.held.subscribe().wait_for(|held| *held == count))
            .await
            .unwrap();
    }
}

/// A pair with mutual TLS between the sidecars, before this application.
pub(crate) async fn secured(app: &App) -> Pair {
    let mut pair = Pair::start().await;
    app.play(pair.take_application());
    certify(&pair.store);
    secure(&pair.store, "inbound-http", "inbound", ME).await;
    settle(&pair).await;
    pair
}

/// Asks until both sidecars have their configuration.
pub(crate) async fn settle(pair: &Pair) {
    soon(async {
        loop {
            let mut client = Wire::connect(pair.http).await;
            client.send(GET).await;
            if client.head().await.starts_with("http/1.1 204") {
                return;
            }
        }
    })
    .await;
}

/// Handshakes that the outbound sidecar has completed.
pub(crate) fn handshakes(pair: &Pair) -> u64 {
    let metrics = pair.telemetry.render();
    let series = r#"weir_tls_handshakes_total{direction="outbound",result="success",reason="none"} "#;
    let counted = metrics.lines().find_map(|line| line.strip_prefix(series));
    counted.map_or(0, |count| count.parse().unwrap())
}

/// Puts load on the endpoint, so that what is asked next is carried if it can be.
pub(crate) async fn hold(pair: &Pair, app: &App) -> Vec<Wire> {
    let mut held = Vec::new();
    for count in 1..=HELD {
        let mut client = Wire::connect(pair.http).await;
        client.send(HOLD).await;
        held.push(client);
        app.until_held(count).await;
    }
    held
}

pub(crate) async fn answer(pair: &Pair, case: &Case) -> Vec<u8> {
    let mut client = Wire::connect(pair.http).await;
    client.send(latin1(&case.request)).await;
    soon(client.bytes_until(case.response_ends))
        .await
        .unwrap_or_default()
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(char).unwrap()).collect()
}
