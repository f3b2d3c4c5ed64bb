//! Requests over HTTP/1: one at a time on each connection.

use std::{pin::pin, time::Instant};

use http::{Request, Response};

use super::{
    super::{Connector, Endpoint, InFlight, usage::Kind},
    IDLE, Pool, SendError,
    lease::Connection,
    open::Open,
};
use crate::{http::Body, http1, net::Io};

pub(super) struct Idle {
    http1: Http1,
    since: Instant,
}

/// An HTTP/1 connection.
pub(super) struct Http1 {
    pub(super) connection: Box<http1::Connection>,
    pub(super) account: Account,
}

/// What is counted of an HTTP/1 connection.
pub(super) struct Account {
    /// Requests sent over it.
    pub(super) used: u32,
    _open: Open,
}

impl Idle {
    pub(super) fn is_usable(&mut self) -> bool {
        self.since.elapsed() < IDLE && self.http1.connection.is_reusable()
    }

    pub(super) fn close(self) {
        self.http1.close();
    }
}

impl Http1 {
    /// A new connection; `open` counts as long as it lives.
    pub(super) fn new(io: Io, open: Open) -> Self {
        Self {
            connection: Box::new(http1::Connection::new(io)),
            account: Account { used: 0, _open: open },
        }
    }

    pub(super) fn close(self) {
        self.connection.close();
    }
}

impl Pool {
    pub(super) fn take(&self) -> Option<Http1> {
        let mut pooled = self.http1.lock();
        while let Some(mut idle) = pooled.pop_back() {
            if idle.is_usable() {
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
        head: &Request<()>,
        body: Body,
        fresh: bool,
    ) -> Result<Response<Body>, SendError> {
        let pooled = (!fresh).then(|| self.endpoint().pool.take()).flatten();
        let http1 = match pooled {
            Some(http1) => http1,
            // Apart, so that the future of a request on a warm connection stays small: it is moved several times.
            None => match Box::pin(self.endpoint().http1(connector)).await {
                Ok(http1) => http1,
                Err(error) => {
                    body.discard();
                    return Err(error);
                }
            },
        };
        self.send_over(http1, head, body).await
    }

    /// Sends a request over this connection, which is its own until the response was read.
    pub(super) fn send_over(
        self,
        http1: Http1,
        head: &Request<()>,
        body: Body,
    ) -> impl Future<Output = Result<Response<Body>, SendError>> + use<> {
        let Http1 {
            connection,
            mut account,
        } = http1;
        account.used = account.used.saturating_add(1);
        let sending = connection.send(head, body);
        async move {
            let response = sending.await?;
            let lease = self.lease(Connection::Http1(None, Some(account)));
            Ok(response.map(|incoming| Body::http1(incoming, lease)))
        }
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
        let io = self.connect(connector).await?;
        Ok(Http1::new(io, open))
    }
}
