//! Which route a request takes, which of its clusters gets it, and what the route changes in messages. Pure, but
//! for the counter of [`Turns`].

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, Uri, uri};

use crate::{
    model::{
        HeaderMutation, HeaderMutations, PathMatch, PathRewrite, QueryMatcher, Route, RouteAction,
        RouteMatch, RouteTable, VirtualHost,
    },
    policy::{Request, header_matches, starts_with, string_matches},
};

#[cfg(test)]
mod tests;

/// A route and where it was found.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    /// The table.
    pub table: &'a RouteTable,
    /// The virtual host.
    pub host: &'a VirtualHost,
    /// The route.
    pub route: &'a Arc<Route>,
}

/// The first route that matches, in the virtual host with the most specific domain. As in Envoy, other virtual
/// hosts are not looked at when that one has no route.
pub fn find<'a>(table: &'a RouteTable, request: &Request<'_>) -> Option<Matched<'a>> {
    let host = virtual_host(table, request.authority)?;
    let route = host
        .routes
        .iter()
        .find(|route| matches(&route.matches, request))?;
    Some(Matched { table, host, route })
}

/// The virtual host of an authority: exact, else the longest `*.suffix`, else the longest `prefix.*`, else `*`.
/// The port counts: domains list the forms with and without it.
pub fn virtual_host<'a>(table: &'a RouteTable, authority: &str) -> Option<&'a VirtualHost> {
    let mut best: Option<((u8, usize), &VirtualHost)> = None;
    for host in &table.virtual_hosts {
        let Some(rank) = host
            .domains
            .iter()
            .filter_map(|domain| rank(domain, authority))
            .max()
        else {
            continue;
        };
        if best.is_none_or(|(found, _)| rank > found) {
            best = Some((rank, host));
        }
    }
    best.map(|(_, host)| host)
}

/// How specific a domain is for an authority: the kind, then the length. `None`: it does not match.
fn rank(domain: &str, authority: &str) -> Option<(u8, usize)> {
    if domain == "*" {
        return Some((0, 0));
    }
    let authority = authority.as_bytes();
    // A wildcard stands for at least one character.
    if let Some(suffix) = domain.strip_prefix('*') {
        let start = authority
            .len()
            .checked_sub(suffix.len())
            .filter(|start| *start > 0)?;
        return authority[start..]
            .eq_ignore_ascii_case(suffix.as_bytes())
            .then_some((2, suffix.len()));
    }
    if let Some(prefix) = domain.strip_suffix('*') {
        let start = authority
            .get(..prefix.len())
            .filter(|_| authority.len() > prefix.len())?;
        return start
            .eq_ignore_ascii_case(prefix.as_bytes())
            .then_some((1, prefix.len()));
    }
    authority
        .eq_ignore_ascii_case(domain.as_bytes())
        .then_some((3, 0))
}

/// Whether a request meets all conditions of a route.
pub fn matches(conditions: &RouteMatch, request: &Request<'_>) -> bool {
    path_matches(&conditions.path, request.path())
        && conditions
            .headers
            .iter()
            .all(|matcher| header_matches(matcher, request))
        && conditions
            .query
            .iter()
            .all(|matcher| query_matches(matcher, request.query()))
        && (!conditions.grpc || is_grpc(request.headers))
}

fn path_matches(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Prefix(prefix, ignore_case) => starts_with(path, prefix, *ignore_case),
        PathMatch::Exact(wanted, true) => path.eq_ignore_ascii_case(wanted),
        PathMatch::Exact(wanted, false) => path == wanted,
        PathMatch::Segment(prefix) => {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

fn query_matches(condition: &QueryMatcher, query: Option<&str>) -> bool {
    let mut parameters = query
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let Some((_, value)) = parameters.find(|(name, _)| *name == condition.name) else {
        return false;
    };
    condition
        .value
        .as_ref()
        .is_none_or(|wanted| string_matches(wanted, value))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(http::header::CONTENT_TYPE)
        .map(http::HeaderValue::as_bytes);
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';')
}

/// The index of one weight, each as often as its share of the sum; `random` is uniform over all values. A weight
/// of 0 is never chosen; `None` when all are 0.
pub fn pick(weights: impl Iterator<Item = u32> + Clone, random: u64) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    // The high half of the product maps the random number onto 0..total without a division's bias to low values.
    let point = u64::try_from((u128::from(random) * u128::from(total)) >> 64).ok()?;
    let mut end = 0;
    weights.enumerate().find_map(|(index, weight)| {
        end += u64::from(weight);
        (point < end).then_some(index)
    })
}

/// Numbers for [`pick`] that spread evenly instead of at random: of any run of picks each weight gets its share,
/// give or take a few, where independent random numbers would be off by the square root of the run's length.
#[derive(Debug)]
pub struct Turns(AtomicU64);

impl Turns {
    /// 2^64 divided by the golden ratio: multiples of it, taken modulo 2^64, leave no gap much larger than another.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Where the run begins; to be taken at random, so that many proxies do not begin with the same cluster.
    pub fn starting_at(start: u64) -> Self {
        Self(AtomicU64::new(start))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(Self::STEP, Ordering::Relaxed)
    }
}

impl<'a> Matched<'a> {
    /// Changes to headers, the most specific first, as Envoy applies them.
    fn layers(&self) -> [&'a HeaderMutations; 3] {
        [&self.route.headers, &self.host.headers, &self.table.headers]
    }

    /// Applies the changes to a request's headers.
    pub fn change_request(&self, headers: &mut HeaderMap) {
        for layer in self.layers() {
            change(headers, &layer.request_remove, &layer.request_set);
        }
    }

    /// Applies the changes to a response's headers.
    pub fn change_response(&self, headers: &mut HeaderMap) {
        for layer in self.layers() {
            change(headers, &layer.response_remove, &layer.response_set);
        }
    }

    /// The request's new path and query; `None` when the route changes nothing or what comes out is no path.
    pub fn rewrite(&self, uri: &Uri) -> Option<uri::PathAndQuery> {
        let RouteAction::Forward(destination) = &self.route.action else {
            return None;
        };
        let rewrite = destination.rewrite.as_ref()?;
        let target = uri.path_and_query().map_or("/", uri::PathAndQuery::as_str);
        rewritten(rewrite, &self.route.matches.path, target).parse().ok()
    }

    /// Where a redirecting route sends the client; `None` for other routes or when it is no URI.
    pub fn location(&self, request: &Request<'_>) -> Option<Uri> {
        let RouteAction::Redirect {
            scheme,
            host,
            port,
            path,
            ..
        } = &self.route.action
        else {
            return None;
        };
        let new_scheme = scheme.as_deref().unwrap_or(request.scheme);
        let (own_host, own_port) = split_port(request.authority);
        // A changed scheme without a changed port means that scheme's own port.
        let port = match port {
            Some(port) => Some(port.to_string()),
            None if new_scheme == request.scheme => own_port.map(str::to_owned),
            None => None,
        };
        let host = host.as_deref().unwrap_or(own_host);
        let authority = match port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let target = match path {
            None => request.target.to_owned(),
            Some(path) if path.contains('?') => path.clone(),
            Some(path) => with_query(path.clone(), request.query()),
        };
        Uri::builder()
            .scheme(new_scheme)
            .authority(authority)
            .path_and_query(target)
            .build()
            .ok()
    }
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

fn rewritten(rewrite: &PathRewrite, matched: &PathMatch, target: &str) -> String {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let path = match rewrite {
        PathRewrite::Regex {
            pattern,
            substitution,
        } => pattern.replace_all(path, substitution),
        PathRewrite::Prefix(replacement) => {
            let prefix = match matched {
                PathMatch::Prefix(prefix, _) => prefix.len(),
                PathMatch::Segment(prefix) => prefix.trim_end_matches('/').len(),
                PathMatch::Exact(..) | PathMatch::Regex(_) => path.len(),
            };
            format!("{replacement}{}", path.get(prefix..).unwrap_or_default())
        }
    };
    let path = if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    };
    with_query(path, query)
}

fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, Some(port))
        }
        _ => (authority, None),
    }
}
