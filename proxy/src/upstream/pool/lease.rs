//! What a response holds of its connection.

use std::sync::Arc;

use super::{
    super::{Endpoint, InFlight},
    http1::{Account, Http1},
    http2::Stream,
    ride::Load,
};
use crate::http1;

/// What a response holds while its body is read: the endpoint's load and the connection it came over.
pub struct Lease {
    in_flight: InFlight,
    connection: Connection,
}

/// The connection that a response comes over.
pub(super) enum Connection {
    /// It comes back when the response was read.
    Http1(Option<Box<http1::Connection>>, Option<Account>),
    Http2(#[expect(dead_code, reason = "counts while it lives")] Stream),
    Carrier(#[expect(dead_code, reason = "counts while it lives")] Load),
    /// Of this request alone.
    Tunnel,
}

impl Lease {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }

    /// Takes an HTTP/1 connection whose response was read; it is free for others when the lease ends.
    pub(crate) fn put_back(&mut self, connection: Box<http1::Connection>) {
        if let Connection::Http1(back, _) = &mut self.connection {
            *back = Some(connection);
        }
    }
}

impl InFlight {
    pub(super) fn lease(self, connection: Connection) -> Lease {
        Lease {
            in_flight: self,
            connection,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Connection::Http1(connection, account) = &mut self.connection else {
            return;
        };
        let Some((connection, account)) = connection.take().zip(account.take()) else {
            return;
        };
        let endpoint = self.in_flight.endpoint();
        let limit = endpoint.cluster().limits.requests_per_connection;
        let spent = limit.is_some_and(|limit| account.used >= limit);
        let http1 = Http1 { connection, account };
        if spent {
            http1.close();
        } else {
            endpoint.give(http1);
        }
    }
}
