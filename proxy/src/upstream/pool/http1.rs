//! Requests over HTTP/1: one at a time on each connection.

use std::{pin::pin, time::Instant};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;

use super::{
    super::{Connector, Endpoint, InFlight, Purpose, usage::Kind},
    IDLE, Pool, SendError,
    lease::Connection,
    open::Open,
};
use crate::{
    http::{Body, limits},
    net::Io,
};

pub(super) struct Idle {
    pub(super) http1: Http1,
    pub(super) since: Instant,
}

/// An HTTP/1 connection.
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<Body>,
    /// Requests sent over it.
    pub(super) used: u32,
}

impl Http1 {
    /// Begins HTTP/1 on a connection, and drives it until it ends; `open` counts as long.
    pub(super) async fn begin(io: Io, open: Open) -> Result<Self, SendError> {
        let (sender, connection) = http1::Builder::new()
            .max_headers(limits::HEADERS)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(async move {
            // An error reaches the request that suffers from it; an idle connection just ends.
            let _ = connection.with_upgrades().await;
            drop(open);
        });
        Ok(Self { sender, used: 0 })
    }

    async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        self.used = self.used.saturating_add(1);
        self.sender.try_send_request(request).await
    }
}

impl Pool {
    pub(super) fn take(&self) -> Option<Http1> {
        let mut pooled = self.http1.lock();
        while let Some(idle) = pooled.pop_back() {
            if idle.http1.sender.is_ready() && idle.since.elapsed() < IDLE {
                return Some(idle.http1);
            }
        }
        None
    }

    fn give(&self, http1: Http1) {
        if self.is_retired() {
            return;
        }
        let since = Instant::now();
        self.http1.lock().push_back(Idle { http1, since });
    }
}

impl InFlight {
    /// Sends a request over HTTP/1; `fresh`: not over a connection that was used before.
    ///
    /// # Errors
    /// When there is no connection or no response.
    pub async fn send_http1(
        self,
        connector: &Connector,
        mut request: Request<Body>,
        fresh: bool,
    ) -> Result<Response<Body>, SendError> {
        let pooled = (!fresh).then(|| self.endpoint().pool.take()).flatten();
        if let Some(mut http1) = pooled {
            match http1.send(request).await {
                Ok(response) => return Ok(self.leased(response, Connection::Http1(Some(http1)))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        // Apart, so that the future of a request on a warm connection stays small: it is moved several times.
        let http1 = match Box::pin(self.endpoint().http1(connector)).await {
            Ok(http1) => http1,
            Err(error) => {
                request.into_body().discard();
                return Err(error);
            }
        };
        self.send_over(http1, request).await
    }

    /// Sends a request over this new connection.
    pub(super) async fn send_over(
        self,
        mut http1: Http1,
        request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let response = http1.send(request).await.map_err(TrySendError::into_error)?;
        Ok(self.leased(response, Connection::Http1(Some(http1))))
    }
}

impl Endpoint {
    pub(super) fn give(&self, http1: Http1) {
        self.pool.give(http1);
        if self.cluster().limits.connections.is_some() {
            self.usage.freed.notify_waiters();
        }
    }

    /// A new HTTP/1 connection, or one that others gave back while there was no room for a new one.
    async fn http1(&self, connector: &Connector) -> Result<Http1, SendError> {
        let _pending = self.usage.take(Kind::Pending, &self.cluster().limits)?;
        loop {
            let mut freed = pin!(self.usage.freed.notified());
            freed.as_mut().enable();
            if let Some(open) = self.admit() {
                return self.open_http1(connector, open).await;
            }
            if let Some(http1) = self.pool.take() {
                return Ok(http1);
            }
            freed.await;
        }
    }

    async fn open_http1(&self, connector: &Connector, open: Open) -> Result<Http1, SendError> {
        let purpose = if self.may_be_carried_to() {
            Purpose::Http1
        } else {
            Purpose::Http
        };
        let opened = connector.connect(self, purpose).await?;
        self.pool.carriers.learn(opened.carries);
        Http1::begin(opened.io, open).await
    }
}
