//! Requests that share a connection to another sidecar with others.
//!
//! Few HTTP/1 requests at a time go over HTTP/1, which answers each of them sooner; more share a connection. Whatever
//! is in doubt goes the way that anyone understands.

use http::{HeaderName, HeaderValue, Request, Response};

use super::{
    super::{ConnectError, Connector, Endpoint, InFlight, Purpose},
    SendError,
    carrier::Found,
    http1::Http1,
    lease::Connection,
    ride::Ride,
};
use crate::{
    http::{Body, carried},
    http2::Unanswered,
    model::AppProtocol,
    net::Io,
};

/// So many requests at a time go over HTTP/1.
const FEW: u32 = 4;

impl Endpoint {
    /// Whether its connections may carry others' requests, if the other side is a sidecar that takes them. Where
    /// connections are limited they are those of HTTP/1: one for each request.
    pub(in crate::upstream) fn may_be_carried_to(&self) -> bool {
        let cluster = self.cluster();
        let mutual = cluster.tls.as_ref().is_some_and(|tls| tls.certificate.is_some());
        mutual
            && cluster.protocol == AppProtocol::Downstream
            && cluster.limits.connections.is_none()
            && cluster.limits.requests_per_connection.is_none()
    }

    /// Whether its HTTP/2 connections are shared with what is carried, as far as is known.
    pub(super) fn carries(&self) -> bool {
        self.may_be_carried_to() && !self.pool.carriers.are_refused()
    }

    /// A connection for HTTP of any version; what it shows of the endpoint is learned.
    pub(super) async fn connect(&self, connector: &Connector) -> Result<Io, ConnectError> {
        if !self.may_be_carried_to() {
            return Ok(connector.connect(self, Purpose::Http).await?.io);
        }
        let opened = connector.connect(self, Purpose::Shared).await?;
        self.pool.carriers.learn(opened.carries);
        Ok(opened.io)
    }
}

impl InFlight {
    /// Whether an HTTP/1 request had better share a connection, if it can be carried.
    pub fn is_crowded(&self) -> bool {
        self.endpoint().in_flight() > FEW && self.endpoint().carries()
    }

    /// Sends an HTTP/1 request over HTTP/2, or over HTTP/1 where that cannot be.
    ///
    /// # Errors
    /// When there is no connection or no response.
    pub async fn send_carried(
        self,
        connector: &Connector,
        head: &Request<()>,
        body: Body,
    ) -> Result<Response<Body>, SendError> {
        let ride = match self.ride(connector, Purpose::Shared).await {
            Ok(Found::Ride(ride)) => ride,
            Ok(Found::Foreign(io, open)) => {
                return Box::pin(self.send_over(Http1::new(io, open), head, body)).await;
            }
            Ok(Found::Nothing) => return Box::pin(self.send_http1(connector, head, body, false)).await,
            Err(error) => {
                body.discard();
                return Err(error);
            }
        };
        match self.send_along(ride, head, Some(&carried::MARK), body).await {
            Ok(mut response) => {
                carried::open(&mut response);
                Ok(response)
            }
            // The connection was about to end, perhaps with its peer: what comes next must not meet the same.
            Err(Unsent::Body(in_flight, body)) => {
                Box::pin(in_flight.send_http1(connector, head, body, false)).await
            }
            Err(Unsent::Never(error)) => Err(error),
        }
    }

    /// Sends a request over HTTP/2 on this connection, with one field more perhaps.
    ///
    /// # Errors
    /// When there is no response, and with the request's body where nothing of it was sent.
    pub(super) async fn send_along(
        self,
        ride: Ride,
        head: &Request<()>,
        more: Option<&(HeaderName, HeaderValue)>,
        body: Body,
    ) -> Result<Response<Body>, Unsent> {
        let Ride { client, load } = ride;
        match client.send(head, more, body).await {
            Ok(response) => {
                load.answered(self.endpoint().pool.carriers.now());
                let lease = self.lease(Connection::Carrier(load));
                Ok(response.map(|incoming| Body::http2(incoming, Some(lease))))
            }
            Err(Unanswered::Unsent(body)) => {
                client.close();
                Err(Unsent::Body(self, body))
            }
            Err(Unanswered::Broken(error)) => Err(Unsent::Never(SendError::Carried(error))),
            Err(Unanswered::Body(error)) => Err(Unsent::Never(SendError::Body(error))),
        }
    }
}

/// What becomes of a request that has no response.
pub(super) enum Unsent {
    /// It may be sent over another connection.
    Body(InFlight, Body),
    Never(SendError),
}
