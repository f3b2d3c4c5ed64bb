//! Who may ask the admin server: a browser that a foreign page sent here (DNS rebinding, or a form posted
//! across origins) may not.

use std::net::IpAddr;

use http::{StatusCode, Version, header, request::Parts, uri::Authority};

use super::{Page, text};

/// The refusal of a request that names another host than this one, or that comes from a page of another host.
pub(super) fn refusal(request: &Parts) -> Option<Page> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    match hosts.next() {
        None if request.version == Version::HTTP_11 => {
            return Some(text(StatusCode::BAD_REQUEST, "The Host header is missing."));
        }
        None => {}
        Some(host) if host.to_str().is_ok_and(is_loopback) && hosts.next().is_none() => {}
        Some(_) => return Some(forbidden("Host")),
    }
    if request
        .uri
        .authority()
        .is_some_and(|authority| !is_loopback(authority.as_str()))
    {
        return Some(forbidden("Host"));
    }
    for origin in request.headers.get_all(header::ORIGIN) {
        let host = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        if !host.is_some_and(|(_, host)| is_loopback(host)) {
            return Some(forbidden("Origin"));
        }
    }
    None
}

fn forbidden(header: &str) -> Page {
    text(
        StatusCode::FORBIDDEN,
        format!("The {header} header names another host. Ask for localhost, 127.0.0.1 or [::1]."),
    )
}

fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}
