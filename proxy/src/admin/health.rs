//! TCP probes of the application, asked over HTTP: the kubelet cannot dial the application's port itself, since
//! the connection would be taken by the proxy, which answers for every port.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use tokio::{sync::Semaphore, time::timeout};

use super::{AdminState, Page, text};

/// The header that carries the application's port.
const PORT: &str = "original-tcp-port";
/// The application has to accept within this.
const LIMIT: Duration = Duration::from_secs(1);
/// Connections to the application at a time.
const CHECKS: usize = 64;

/// Dials the application, not too often at once.
pub(super) struct Health {
    checks: Semaphore,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            checks: Semaphore::new(CHECKS),
        }
    }
}

impl Health {
    /// Answers one probe: 200 when the application accepts a connection on loopback, 503 when not.
    pub(super) async fn check(&self, headers: &HeaderMap, state: &AdminState) -> Page {
        let Some(port) = port(headers) else {
            return text(
                StatusCode::BAD_REQUEST,
                "The header Original-Tcp-Port must be there once and hold a port, 1 to 65535.",
            );
        };
        let addresses = [
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
        ];
        if addresses.iter().any(|address| (state.own)(*address)) {
            return text(
                StatusCode::BAD_REQUEST,
                format!("Port {port} is the proxy's own; probe a port of the application."),
            );
        }
        let unavailable = |why: String| text(StatusCode::SERVICE_UNAVAILABLE, why);
        match timeout(LIMIT, self.dial(addresses, state)).await {
            Ok(Ok(())) => text(StatusCode::OK, format!("Port {port} accepts connections.")),
            Ok(Err(why)) => unavailable(why),
            Err(_) => unavailable(format!("Port {port} accepted no connection within {LIMIT:?}.")),
        }
    }

    async fn dial(&self, addresses: [SocketAddr; 2], state: &AdminState) -> Result<(), String> {
        let _permit = self.checks.acquire().await.map_err(|error| error.to_string())?;
        let mut reasons = Vec::new();
        for address in addresses {
            match state.dialer.dial(address, LIMIT).await {
                Ok(_) => return Ok(()),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(reasons.join("\n"))
    }
}

fn port(headers: &HeaderMap) -> Option<u16> {
    let mut values = headers.get_all(PORT).iter();
    let value = values.next()?.to_str().ok()?.trim();
    let port = value.parse().ok().filter(|port| *port != 0)?;
    values.next().is_none().then_some(port)
}
