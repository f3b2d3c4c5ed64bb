//! A request as rules and routes look at it.

use http::{HeaderMap, header::HOST};

/// The parts of a request that decisions read. Borrowed, so it costs nothing to make.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`...
    pub method: &'a str,
    /// `:authority`, or `Host`; empty when there is neither.
    pub authority: &'a str,
    /// `http` when the request does not say.
    pub scheme: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
}

impl<'a> Request<'a> {
    /// The parts of an HTTP request.
    pub fn of<B>(request: &'a http::Request<B>) -> Self {
        let uri = request.uri();
        let host = || request.headers().get(HOST).and_then(|host| host.to_str().ok());
        Self {
            method: request.method().as_str(),
            authority: uri
                .authority()
                .map(http::uri::Authority::as_str)
                .or_else(host)
                .unwrap_or_default(),
            scheme: uri.scheme_str().unwrap_or("http"),
            target: uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
            headers: request.headers(),
        }
    }

    /// The path without its query.
    pub fn path(&self) -> &'a str {
        self.target.split(['?', '#']).next().unwrap_or_default()
    }

    /// The query, without its `?`.
    pub fn query(&self) -> Option<&'a str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('#').next()
    }
}
