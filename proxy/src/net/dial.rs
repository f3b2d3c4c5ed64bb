//! Opening connections.

use std::{io, net::SocketAddr, time::Duration};

use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::configure;

/// Why a connection was not opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The system refused.
    #[error("cannot connect to {0}: {1}; is the process listening there, and does a NetworkPolicy allow it?")]
    Failed(SocketAddr, #[source] io::Error),
    /// It took too long.
    #[error("connecting to {0} took longer than {1:?}; is the address still in use?")]
    Timeout(SocketAddr, Duration),
}

/// Opens connections; every one carries the socket mark, if there is one, so that the redirect rules
/// know the proxy's own traffic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialer {
    /// The `SO_MARK` to set.
    pub mark: Option<u32>,
}

impl Dialer {
    /// Connects within `limit`.
    ///
    /// # Errors
    /// When the system refuses or the limit passes.
    pub async fn dial(&self, address: SocketAddr, limit: Duration) -> Result<TcpStream, DialError> {
        let failed = |error| DialError::Failed(address, error);
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .map_err(failed)?;
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark).map_err(failed)?;
        }
        let stream = timeout(limit, socket.connect(address))
            .await
            .map_err(|_| DialError::Timeout(address, limit))?
            .map_err(failed)?;
        configure(SockRef::from(&stream)).map_err(failed)?;
        Ok(stream)
    }
}
