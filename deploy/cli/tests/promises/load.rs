//! Requests without a pause, of which none may fail.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, ensure};
use http_body_util::Empty;
use hyper::{Request, body::Bytes};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    client::{self, Http1, Reply},
    world::{World, within},
};

/// Clients that keep their connection, and as many that make one for each request.
const PAIRS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients at work in a pod. Dropping it ends them.
pub(crate) struct Load {
    answered: watch::Receiver<usize>,
    stop: watch::Sender<bool>,
    clients: JoinSet<anyhow::Result<()>>,
}

/// One client.
#[derive(Clone)]
struct Client {
    world: Arc<World>,
    pod: String,
    to: SocketAddr,
    path: &'static str,
    answered: watch::Sender<usize>,
    stop: watch::Receiver<bool>,
}

impl Load {
    /// Begins to ask for a path from inside a pod, `namespace/name`.
    pub(crate) fn start(world: Arc<World>, pod: String, to: SocketAddr, path: &'static str) -> Self {
        let (answered, receiver) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let client = Client {
            world,
            pod,
            to,
            path,
            answered,
            stop: stopped,
        };
        let mut clients = JoinSet::new();
        for _ in 0..PAIRS {
            clients.spawn(client.clone().keep_connection());
            clients.spawn(client.clone().connect_each_time());
        }
        Self {
            answered: receiver,
            stop,
            clients,
        }
    }

    /// Waits until so many more requests have been answered; an error as soon as one has failed.
    pub(crate) async fn more(&mut self, requests: usize) -> anyhow::Result<()> {
        let wanted = *self.answered.borrow() + requests;
        let mut answered = self.answered.clone();
        let enough = async {
            tokio::select! {
                Ok(()) = async { answered.wait_for(|count| *count >= wanted).await.map(drop) } => Ok(()),
                Some(ended) = self.clients.join_next() => Err(match ended {
                    Ok(Err(error)) => error,
                    Ok(Ok(())) => anyhow!("a client ended"),
                    Err(panic) => anyhow!(panic),
                }),
                else => Err(anyhow!("no client is left")),
            }
        };
        within(PATIENCE, &format!("{requests} more requests"), enough).await?
    }

    /// Ends the clients and says how many requests there were; an error if one failed.
    pub(crate) async fn stop(mut self) -> anyhow::Result<usize> {
        self.stop.send_replace(true);
        while let Some(client) = within(PATIENCE, "the clients to end", self.clients.join_next()).await? {
            client?.with_context(|| format!("after {} answers", *self.answered.borrow()))?;
        }
        let answered = *self.answered.borrow();
        ensure!(answered > 0, "no request was made");
        Ok(answered)
    }
}

impl Client {
    fn done(&self) -> bool {
        *self.stop.borrow()
    }

    async fn keep_connection(self) -> anyhow::Result<()> {
        let mut connection = Http1::new(self.world.mesh().dial(&self.pod, self.to).await?).await?;
        while !self.done() {
            let request = Request::get(self.path)
                .header("host", self.to.to_string())
                .body(Empty::<Bytes>::new())?;
            let response = connection.send(request).await.context("on a kept connection")?;
            Reply::read(response).await?.expect(200)?;
            self.answered.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    async fn connect_each_time(self) -> anyhow::Result<()> {
        while !self.done() {
            let stream = self.world.mesh().dial(&self.pod, self.to).await?;
            let reply = client::get(stream, &self.to.to_string(), self.path).await;
            reply.context("on a new connection")?.expect(200)?;
            self.answered.send_modify(|count| *count += 1);
        }
        Ok(())
    }
}
