//! Looking at a connection's first bytes, once.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    detect::{Detected, detect},
    model::Inspect,
    net::{Replay, reset},
    reason::Reason,
    telemetry::Connections,
};

/// How long bytes are waited for where going on without them is no choice.
const HELLO: Duration = Duration::from_secs(10);

/// Reads until it is clear what the client speaks. A client silent until the timeout is opaque, if the listener
/// goes on then.
///
/// # Errors
/// With the reason when the connection ends here.
pub async fn peek(
    client: &mut Replay,
    inspect: &Inspect,
    default: Duration,
    connections: &Connections,
) -> Result<Detected, Reason> {
    let limit = inspect.timeout.unwrap_or(if inspect.continue_on_timeout {
        default
    } else {
        HELLO
    });
    let looking = async {
        loop {
            match verdict(client.seen(), inspect) {
                Detected::NeedMore => {}
                detected => return Ok(detected),
            }
            match client.look().await {
                Ok(0) => return Ok(Detected::Opaque),
                Ok(_) => {}
                Err(_) => return Err(Reason::ClientReset),
            }
        }
    };
    if let Ok(detected) = timeout(limit, looking).await {
        if let Ok(detected) = &detected {
            connections.detected(detected);
        }
        return detected;
    }
    connections.detect_timeout();
    if inspect.continue_on_timeout {
        connections.detected(&Detected::Opaque);
        Ok(Detected::Opaque)
    } else {
        reset(client.stream());
        Err(Reason::DetectTimeout)
    }
}

/// What the bytes are, as far as the listener asks. What it does not ask for is opaque at once.
fn verdict(bytes: &[u8], inspect: &Inspect) -> Detected {
    match bytes.first() {
        None => Detected::NeedMore,
        Some(0x16) if inspect.tls => detect(bytes),
        Some(0x16) => Detected::Opaque,
        Some(_) if inspect.http => detect(bytes),
        Some(_) => Detected::Opaque,
    }
}
