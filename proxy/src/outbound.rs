//! Connections from this pod to anywhere.

mod services;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::net::TcpStream;

pub use services::Services;

use crate::{assemble::Assembly, inbound, net, reason::Reason};

/// Handles one connection from its first byte to its last.
///
/// # Errors
/// With the reason when the proxy refuses it.
pub async fn handle(
    services: &Arc<Services>,
    outbound: &Arc<Assembly>,
    stream: TcpStream,
    source: SocketAddr,
    destination: SocketAddr,
) -> Result<(), Reason> {
    let context = &services.context;
    if context.is_own(destination) {
        net::reset(&stream);
        return Err(Reason::Loop);
    }
    let Some(service) = services.find(destination, Instant::now()) else {
        net::reset(&stream);
        return Err(Reason::Overflow);
    };
    match services.is_one(destination, &service).await {
        Ok(true) => return inbound::handle(context, &service, stream, source, destination).await,
        Ok(false) => {}
        Err(reason) => {
            net::reset(&stream);
            return Err(reason);
        }
    }
    drop(service);
    let handled = inbound::handle(context, outbound, stream, source, destination).await;
    handled.map_err(|reason| match reason {
        Reason::NoFilterChain => Reason::UnknownDestination,
        reason => reason,
    })
}

#[cfg(test)]
mod tests;
