//! What a response holds of its connection.

use std::sync::Arc;

use http::Response;
use hyper::body::Incoming;

use super::{
    super::{Endpoint, InFlight},
    IDLE,
    http1::Http1,
    http2::Stream,
};
use crate::http::Body;

/// What a response holds while its body is read: the endpoint's load and the connection it came over.
pub struct Lease {
    in_flight: InFlight,
    connection: Connection,
}

/// The connection that a response comes over.
pub(super) enum Connection {
    Http1(Option<Http1>),
    Http2(#[expect(dead_code, reason = "counts while it lives")] Stream),
    /// Of this request alone.
    Tunnel,
}

impl Lease {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }
}

impl InFlight {
    pub(super) fn lease(self, connection: Connection) -> Lease {
        Lease {
            in_flight: self,
            connection,
        }
    }

    pub(super) fn leased(self, response: Response<Incoming>, connection: Connection) -> Response<Body> {
        let lease = self.lease(connection);
        response.map(|incoming| Body::leased(incoming, lease))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Connection::Http1(http1) = &mut self.connection else {
            return;
        };
        let Some(mut http1) = http1.take().filter(|http1| !http1.sender.is_closed()) else {
            return;
        };
        let endpoint = self.in_flight.endpoint();
        let limit = endpoint.cluster().limits.requests_per_connection;
        if limit.is_some_and(|limit| http1.used >= limit) {
            return;
        }
        if http1.sender.is_ready() {
            endpoint.give(http1);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // The request's body may still be on its way, or the connection's task has not run since.
            let endpoint = endpoint.clone();
            runtime.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(IDLE, http1.sender.ready()).await {
                    endpoint.give(http1);
                }
            });
        }
    }
}
