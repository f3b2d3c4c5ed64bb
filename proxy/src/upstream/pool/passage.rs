//! A way to an endpoint for the bytes of one opaque connection.
//!
//! Many small exchanges pass faster, and new connections are there sooner, where they share a connection to the other
//! sidecar; the bytes of a few large ones pass faster on connections of their own.

use super::{
    super::{Connector, InFlight, Purpose},
    SendError,
    carrier::Found,
    ride::{Load, Ride},
};
use crate::net::Io;

/// So many connections at a time to an endpoint have their own.
const FEW: u32 = 4;

/// A way to an endpoint.
pub struct Passage {
    /// The bytes.
    pub io: Io,
    _in_flight: InFlight,
    /// Its part of the connection that it shares.
    _load: Option<Load>,
}

impl InFlight {
    /// Opens a way to the endpoint, as a connection of its own or through one that is shared.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn pass(self, connector: &Connector) -> Result<Passage, SendError> {
        if self.shares_passage() {
            match self.ride(connector, Purpose::Tunnels).await? {
                Found::Ride(Ride { client, load }) => {
                    let authority = self.endpoint().address().to_string();
                    match client.tunnel(&authority) {
                        Ok(tunnel) => return Ok(self.passage(Io::Tunnelled(tunnel), Some(load))),
                        Err(_) => client.close(),
                    }
                }
                Found::Foreign(io, _) => return Ok(self.passage(io, None)),
                Found::Nothing => {}
            }
        }
        let opened = connector.connect(self.endpoint(), Purpose::Opaque).await?;
        Ok(self.passage(opened.io, None))
    }

    fn shares_passage(&self) -> bool {
        let endpoint = self.endpoint();
        let tunnels = &endpoint.pool.tunnels;
        endpoint.may_be_carried_to()
            && !tunnels.are_refused()
            && (endpoint.in_flight() > FEW || tunnels.are_there())
    }

    fn passage(self, io: Io, load: Option<Load>) -> Passage {
        Passage {
            io,
            _in_flight: self,
            _load: load,
        }
    }
}
