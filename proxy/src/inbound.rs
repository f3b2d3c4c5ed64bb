//! Connections to this pod, and to listeners of their own such as probes.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use crate::{
    admit::admit,
    assemble::{Assembly, Terminal},
    chain::{self, Facts},
    context::Context,
    drain::Stage,
    http::{Session, serve},
    model::{Direction, Inspect},
    net::{self, Io, Replay},
    peek::peek,
    reason::Reason,
    tcp::Opaque,
    telemetry::Protocol,
    tls::{Accepted, Carried, ServerSide},
    tunnels::Tunnels,
};

/// How long a TLS handshake with a client may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handles one connection from its first byte to its last, and tells why it ended.
///
/// # Errors
/// With the reason when the proxy refuses it.
pub async fn handle(
    context: &Arc<Context>,
    assembly: &Arc<Assembly>,
    stream: TcpStream,
    source: SocketAddr,
    destination: SocketAddr,
) -> Result<(), Reason> {
    let Some(resolved) = assembly.now().clone() else {
        net::reset(&stream);
        return Err(Reason::NoFilterChain);
    };
    let direction = resolved.listener.direction;
    let inspect = &resolved.listener.inspect;
    let mut client = Replay::new(stream);
    let detected = if inspects(inspect, &resolved.listener.chains) {
        let connections = &context.telemetry.connections;
        Some(peek(&mut client, inspect, context.detect_timeout, connections).await?)
    } else {
        None
    };

    let facts = Facts::new(source, destination, detected.as_ref());
    let Some(chain) = resolved.chain(chain::select(&resolved.listener, &facts)) else {
        net::reset(client.stream());
        return Err(Reason::NoFilterChain);
    };

    if !chain.within_rate(Instant::now()) {
        net::reset(client.stream());
        return Err(Reason::RateLimited);
    }

    let http = matches!(&chain.terminal, Terminal::Http(_));
    let (client, peer, carries) = match &chain.tls {
        None => (Io::Plain(client), None, false),
        Some(tls) => {
            let carried = match http {
                true => Carried::Requests,
                false => Carried::Connections,
            };
            // A pod that ends takes one more request over each connection, so none is to be shared.
            let carried = (context.drain.stage() == Stage::Running).then_some(carried);
            let accepted = terminate(context, tls, client, carried, direction, &facts).await?;
            let io = Io::Terminated(Box::new(accepted.stream));
            (io, accepted.peer, accepted.carries)
        }
    };

    let admitted = admit(&chain.model, &facts, peer.as_deref());
    let admitted = admitted.and_then(|()| resolved.next_chain(&facts, peer.as_deref()).map(drop));
    let refused = admitted.err();
    if let Some(denied) = &refused {
        tracing::info!(%source, %destination, reason = %denied.reason, "{}", denied.text);
        // A request can be told why it is refused, bytes cannot.
        if !http {
            client.reset();
            return Err(denied.reason);
        }
    }
    let refused = refused.map(|denied| denied.reason);

    if carries && !http {
        let tunnels = Tunnels {
            context: context.clone(),
            assembly: assembly.clone(),
            facts,
            peer,
            direction,
        };
        Box::pin(tunnels.serve(client)).await;
        return Ok(());
    }

    let protocol = match &chain.terminal {
        Terminal::Tcp(..) => Protocol::Tcp,
        Terminal::Http(_) => Protocol::Http,
    };
    let open = context
        .telemetry
        .connections
        .open(direction, protocol, chain.tls.is_some());
    let client = open.meter(client);

    match &chain.terminal {
        Terminal::Tcp(tcp, targets) => {
            let opaque = Opaque {
                context,
                assembly,
                facts: &facts,
                peer,
            };
            let (reason, _copied) = opaque.forward(client, tcp, targets).await;
            match reason {
                Reason::Closed => Ok(()),
                reason => Err(reason),
            }
        }
        Terminal::Http(http) => {
            let codec = http.http.codec;
            let session = Session::new(
                context.clone(),
                assembly.clone(),
                facts,
                peer,
                resolved.clone(),
                refused.map_or(Ok(chain.clone()), Err),
            )
            .carrying(carries);
            if let Err(error) = serve(client, Arc::new(session), codec).await {
                tracing::debug!(%source, %destination, %error, "an HTTP connection ended");
            }
            refused.map_or(Ok(()), Err)
        }
    }
}

/// Does the TLS handshake; the client's identity comes with it.
async fn terminate(
    context: &Context,
    tls: &ServerSide,
    client: Replay,
    carried: Option<Carried>,
    direction: Direction,
    facts: &Facts,
) -> Result<Accepted<Replay>, Reason> {
    let handshakes = &context.telemetry.handshakes;
    match tls.accept(client.ahead(), HANDSHAKE, carried).await {
        Ok(accepted) => {
            handshakes.done(direction, Ok(()));
            Ok(accepted)
        }
        Err(error) => {
            handshakes.done(direction, Err(error.failure()));
            tracing::info!(
                source = %facts.source, destination = %facts.destination, %error,
                "the TLS handshake with a client failed"
            );
            Err(Reason::TlsHandshake)
        }
    }
}

/// Whether the first bytes are needed to choose the chain.
fn inspects(inspect: &Inspect, chains: &[Arc<crate::model::FilterChain>]) -> bool {
    (inspect.tls || inspect.http) && chain::inspects(chains)
}
