//! A bound listener: takes connections and hands each to the path that its direction says.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, TryAcquireError},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    assemble::{Assembly, Standing},
    context::Context,
    inbound,
    model::{Direction, Listener},
    net,
    outbound::{self, Services},
    reason::Reason,
};

/// A pause when the system has no more descriptors, for some to be given back.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// A listening socket, and the task that takes its connections.
pub struct Bound {
    context: Arc<Context>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Bound {
    /// Binds `address` and begins to serve the listener of this name.
    ///
    /// # Errors
    /// When the address is taken, not ours, or not allowed.
    pub fn open(
        context: &Arc<Context>,
        services: &Arc<Services>,
        name: &str,
        listener: &Listener,
        address: SocketAddr,
    ) -> io::Result<Self> {
        let socket = net::bind(address)?;
        let address = socket.local_addr().unwrap_or(address);
        context.own.write().push(address);
        tracing::info!(listener = name, %address, "listening");
        let accepting = Accepting {
            context: context.clone(),
            services: services.clone(),
            assembly: context.assemble(name),
            direction: listener.direction,
            original_dst: listener.original_dst,
        };
        Ok(Self {
            context: context.clone(),
            address,
            accepting: tokio::spawn(Arc::new(accepting).accept(socket)),
        })
    }

    /// Serves it for as long as the proxy runs.
    pub fn keep(self) {}

    /// Takes no more connections; the address is free when this returns.
    pub async fn close(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
        let mut own = self.context.own.write();
        if let Some(at) = own.iter().position(|own| *own == self.address) {
            own.swap_remove(at);
        }
        tracing::info!(address = %self.address, "not listening any more");
    }
}

/// One bound listener.
struct Accepting {
    context: Arc<Context>,
    services: Arc<Services>,
    assembly: Arc<Assembly>,
    direction: Direction,
    original_dst: bool,
}

impl Accepting {
    /// Takes connections until the shutdown says otherwise.
    async fn accept(self: Arc<Self>, socket: TcpListener) {
        let closing = self.context.drain.closing();
        tokio::pin!(closing);
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = &mut closing => return,
            };
            match accepted {
                Ok((stream, source)) => {
                    let Ok(room) = self.room() else {
                        net::reset(&stream);
                        self.denied(source, Reason::Overflow);
                        continue;
                    };
                    let guard = self.context.drain.guard();
                    let accepting = self.clone();
                    tokio::spawn(async move {
                        accepting.connection(stream, source).await;
                        drop((guard, room));
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(EXHAUSTED).await;
                }
            }
        }
    }

    /// Room for one more connection. Only strangers are limited, not the pod's own application.
    fn room(&self) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
        if self.direction == Direction::Outbound {
            return Ok(None);
        }
        self.context.inbound_room.clone().try_acquire_owned().map(Some)
    }

    fn denied(&self, source: SocketAddr, reason: Reason) {
        self.context.telemetry.connections.denied(self.direction, reason);
        tracing::debug!(%source, %reason, "a connection was closed");
    }

    async fn connection(&self, stream: TcpStream, source: SocketAddr) {
        let Ok(destination) = self.destination(&stream) else {
            return;
        };
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let result = if self.assembly.now().is_none() {
            // Accepted before the listener's clusters were ready.
            match self.assembly.answered().await {
                Standing::Ready(_) => self.handle(stream, source, destination).await,
                _ => Err(Reason::NoFilterChain),
            }
        } else {
            self.handle(stream, source, destination).await
        };
        if let Err(reason) = result {
            self.context.telemetry.connections.denied(self.direction, reason);
            tracing::debug!(%source, %destination, %reason, "a connection was closed");
        }
    }

    fn destination(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        if self.original_dst {
            net::original_destination(stream)
        } else {
            let local = stream.local_addr()?;
            Ok(SocketAddr::new(local.ip().to_canonical(), local.port()))
        }
    }

    async fn handle(
        &self,
        stream: TcpStream,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<(), Reason> {
        if self.original_dst && self.context.is_own(destination) {
            net::reset(&stream);
            return Err(Reason::Loop);
        }
        if self.original_dst && self.direction == Direction::Outbound {
            outbound::handle(&self.services, &self.assembly, stream, source, destination).await
        } else {
            inbound::handle(&self.context, &self.assembly, stream, source, destination).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that the task of a connection may take, as long as it is open: with what the runtime keeps of a task it
    /// fits in 4 KiB. What is rare or short belongs in a box.
    const TASK: usize = 3840;

    fn size<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_takes_little_memory() {
        let size = size(Accepting::connection);
        assert!(size <= TASK, "the task of a connection takes {size} bytes");
    }
}
