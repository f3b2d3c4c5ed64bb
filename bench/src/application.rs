//! The application behind the sidecars, on a thread of its own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::Context as _;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::oneshot,
    task::yield_now,
};

use crate::{answers, gathered::Gathered, pin, together::Together};

/// What it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serves {
    /// HTTP/1.1.
    Requests,
    /// HTTP/1.1, answered when so many requests wait at a time.
    RequestsTogether(usize),
    /// gRPC.
    Calls,
    /// gRPC, the answers that are due at once.
    GatheredCalls,
    /// Bytes, as each connection asks with its first.
    Bytes,
    /// Bytes, all sent back.
    Echo,
}

/// Runs until it is dropped.
pub(crate) struct Application {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Application {
    /// Serves on a free port of this machine.
    ///
    /// # Errors
    /// When no port can be bound.
    pub(crate) fn local(serves: Serves) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        Self::start(listener.context("the application cannot listen")?, serves, None)
    }

    /// Serves on a listener, on one core when given.
    ///
    /// # Errors
    /// When the system has no thread or no event queue left.
    pub(crate) fn start(
        listener: std::net::TcpListener,
        serves: Serves,
        core: Option<usize>,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        drop(entered);
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            pin::this_thread(core);
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, serves) => {}
                }
            });
        };
        let thread = thread::Builder::new().name("application".into()).spawn(serve)?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, serves: Serves) {
    let together = Arc::new(Together::new(match serves {
        Serves::RequestsTogether(requests) => requests,
        _ => 1,
    }));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(answer(stream, serves, together.clone()))),
            Err(_) => yield_now().await,
        }
    }
}

/// What became of a connection is the client's to say.
async fn answer(stream: TcpStream, serves: Serves, together: Arc<Together>) {
    let _ = stream.set_nodelay(true);
    let _: io::Result<()> = match serves {
        Serves::Requests | Serves::RequestsTogether(_) => answers::requests(stream, &together).await,
        Serves::Calls => answers::calls(stream).await.map_err(io::Error::other),
        Serves::GatheredCalls => answers::calls(Gathered(stream)).await.map_err(io::Error::other),
        Serves::Bytes => answers::bytes(stream).await,
        Serves::Echo => answers::echo(stream).await,
    };
}
