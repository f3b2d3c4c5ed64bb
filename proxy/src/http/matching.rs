//! The route of a request, and what it changes in messages.

use std::sync::Arc;

use http::{HeaderMap, Request, Response};

use super::{Body, rescue::Refusal};
use crate::{
    model::{Destination, HeaderMutation, HeaderMutations, PathMatch, Route, RouteTable, VirtualHost},
    reason::Reason,
};

/// A route and where it was found.
pub(super) struct Matched<'a> {
    pub(super) table: &'a RouteTable,
    pub(super) host: &'a VirtualHost,
    pub(super) route: &'a Arc<Route>,
}

pub(super) fn find<'a>(table: &'a RouteTable, request: &Request<Body>) -> Option<Matched<'a>> {
    let host = table
        .virtual_hosts
        .iter()
        .find(|host| host.domains.iter().any(|d| d == "*"))?;
    let path = request.uri().path();
    let route = host.routes.iter().find(|route| match &route.matches.path {
        PathMatch::Prefix(prefix, _) => path.starts_with(prefix.as_str()),
        _ => false,
    })?;
    Some(Matched { table, host, route })
}

pub(super) fn redirect(_matched: &Matched<'_>, _request: &Request<Body>) -> Refusal {
    Refusal::new(Reason::NoRoute, "redirects are not served")
}

pub(super) fn change_request(request: &mut Request<Body>, matched: &Matched<'_>, destination: &Destination) {
    for changes in layers(matched) {
        change(
            request.headers_mut(),
            &changes.request_remove,
            &changes.request_set,
        );
    }
    if let Some(host) = &destination.host_rewrite {
        request.headers_mut().insert(http::header::HOST, host.clone());
    }
}

pub(super) fn change_response(response: &mut Response<Body>, matched: &Matched<'_>) {
    for changes in layers(matched) {
        change(
            response.headers_mut(),
            &changes.response_remove,
            &changes.response_set,
        );
    }
}

/// The most specific first, as Envoy applies them.
fn layers<'a>(matched: &Matched<'a>) -> [&'a HeaderMutations; 3] {
    [
        &matched.route.headers,
        &matched.host.headers,
        &matched.table.headers,
    ]
}

fn change(headers: &mut HeaderMap, remove: &[http::HeaderName], set: &[HeaderMutation]) {
    for name in remove {
        headers.remove(name);
    }
    for mutation in set {
        if mutation.append {
            headers.append(mutation.name.clone(), mutation.value.clone());
        } else {
            headers.insert(mutation.name.clone(), mutation.value.clone());
        }
    }
}
